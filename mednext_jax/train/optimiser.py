"""Optimisers and learning-rate schedules, both pure functions of the step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from mednext_jax.settings import ABOVE_ZERO, BELOW_ONE, integer, number, one_of, setting

Schedule = Callable[[jax.Array | int], jax.Array]


@dataclasses.dataclass(frozen=True)
class OptimiserConfig:
    """How the weights are changed."""

    name: str = setting("adamw", one_of("adamw", "sgd"), "AdamW, or Nesterov's SGD (nnU-Net)")
    learning_rate: float = setting(3e-4, ABOVE_ZERO, "MedNet-PVS's; nnU-Net's for SGD: 1e-2")
    weight_decay: float = setting(3e-5, number(0), "of every parameter (nnU-Net)")
    epsilon: float = setting(1e-4, ABOVE_ZERO, "of AdamW (MedNeXt: 1e-8 gave NaN in half precision)")
    momentum: float = setting(0.99, BELOW_ONE, "of SGD (nnU-Net)")
    clip_norm: float = setting(12.0, ABOVE_ZERO, "the global norm that gradients are clipped to (nnU-Net)")
    schedule: str = setting(
        "poly", one_of("poly", "cosine", "constant"), "of the learning rate: poly by epoch (nnU-Net), cosine by step"
    )
    power: float = setting(0.9, number(0), "of the poly schedule (nnU-Net)")
    warmup_steps: int = setting(0, integer(0), "the schedule's rate rises linearly from 0 over these first steps")
    ema: float = setting(
        0.0, BELOW_ONE, "decay of an exponential moving average of the weights, which is then exported; 0: none"
    )


def make_optimiser(config: OptimiserConfig) -> optax.GradientTransformation:
    """AdamW or Nesterov SGD without the learning rate: `updates` are to be scaled by -rate.

    The rate is left out so that it follows the training step also after a skipped update. Weight decay applies to
    every parameter, decoupled for AdamW and in the gradient for SGD, as torch does.
    Source: MedNeXt's and nnU-Net's `configure_optimizers`.
    """
    clip, decay = optax.clip_by_global_norm(config.clip_norm), optax.add_decayed_weights(config.weight_decay)
    if config.name == "adamw":
        return optax.chain(clip, optax.scale_by_adam(eps=config.epsilon), decay)
    return optax.chain(clip, decay, optax.trace(config.momentum, nesterov=True))


def make_schedule(config: OptimiserConfig, steps: int, steps_per_epoch: int) -> Schedule:
    """step -> learning rate (float32 scalar), for a training of `steps` steps.

    poly: rate (1 - epoch / epochs)^power, constant within an epoch (nnU-Net). cosine: by step to 0.
    """
    # optax's cosine multiplies before it divides, and its warm-up starts with a step at rate 0: not the same numbers.
    warmup, epochs = config.warmup_steps, -(-steps // steps_per_epoch)

    def schedule(step: jax.Array | int) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        if config.schedule == "poly":
            factor = ((epochs - jnp.floor(step / steps_per_epoch)) / epochs) ** config.power
        elif config.schedule == "cosine":
            done = (step - warmup) / max(1, steps - warmup)
            factor = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0, 1)))
        else:
            factor = jnp.ones(())
        rise = jnp.minimum(1.0, (step + 1) / warmup) if warmup else 1.0
        return config.learning_rate * factor * rise

    return schedule
