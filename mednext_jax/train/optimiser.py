"""Optimisers and learning-rate schedules, both pure functions of the step."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

Schedule = Callable[[jax.Array | int], jax.Array]


def make_optimiser(config: ConfigDict) -> optax.GradientTransformation:
    """AdamW or Nesterov SGD of `config.optimiser` without the learning rate: `updates` are to be scaled by -rate.

    The rate is left out so that it follows the training step also after a skipped update. Weight decay applies to
    every parameter, decoupled for AdamW and in the gradient for SGD, as torch does.
    Source: MedNeXt's and nnU-Net's `configure_optimizers`.
    """
    o = config.optimiser
    clip = optax.clip_by_global_norm(o.clip_norm)
    if o.name == "adamw":
        return optax.chain(clip, optax.scale_by_adam(eps=o.epsilon), optax.add_decayed_weights(o.weight_decay))
    return optax.chain(clip, optax.add_decayed_weights(o.weight_decay), optax.trace(o.momentum, nesterov=True))


def make_schedule(config: ConfigDict) -> Schedule:
    """step -> learning rate (float32 scalar) of `config.optimiser`, for `config.steps` steps.

    poly: rate (1 - epoch / epochs)^power, constant within an epoch (nnU-Net). cosine: by step to 0.
    """
    o, warmup = config.optimiser, config.optimiser.warmup_steps
    epochs = -(-config.steps // config.steps_per_epoch)

    def schedule(step: jax.Array | int) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        if o.schedule == "poly":
            factor = ((epochs - jnp.floor(step / config.steps_per_epoch)) / epochs) ** o.power
        elif o.schedule == "cosine":
            done = (step - warmup) / max(1, config.steps - warmup)
            factor = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0, 1)))
        else:
            factor = jnp.ones(())
        rise = jnp.minimum(1.0, (step + 1) / warmup) if warmup else 1.0
        return o.learning_rate * factor * rise

    return schedule
