"""What a training run carries from step to step: one tree of arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class TrainState(NamedTuple):
    """Everything that a step changes; a checkpoint holds exactly this."""

    step: jax.Array  # shape=(), int32: the next step, which also decides batch, augmentation and learning rate
    params: Any  # nested dict of float32
    optimiser: optax.OptState
    average: Any  # exponential moving average of params, or None
    skipped: jax.Array  # shape=(), int32: updates skipped so far because loss or gradient was not finite
    skipped_in_row: jax.Array  # shape=(), int32

    @property
    def result(self) -> Any:
        """The weights to validate and export: the average where there is one."""
        return self.params if self.average is None else self.average


def new_state(params: Any, optimiser: optax.GradientTransformation, *, average: bool) -> TrainState:
    """The state before the first step."""

    def zero() -> jax.Array:  # one buffer each: the state is donated
        return jnp.zeros((), jnp.int32)

    # Flax's ones and zeros are weakly typed, what a step returns is not: it would be compiled a second time.
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params)
    copy = jax.tree.map(jnp.copy, params) if average else None
    return TrainState(zero(), params, optimiser.init(params), copy, zero(), zero())
