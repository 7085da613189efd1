"""The trainer's step on a batch that is there already, and its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from mednext_jax.parallel.mesh import make_mesh, replicated
from mednext_jax.parallel.network import Apply
from mednext_jax.train.configuration import TrainConfig
from mednext_jax.train.optimiser import make_optimiser
from mednext_jax.train.state import TrainState, new_state
from mednext_jax.train.step import make_train_step

Step = Callable[[TrainState, dict[str, Any]], tuple[TrainState, Any]]


def step_of_patches(config: TrainConfig, apply: Apply, params: Any) -> tuple[Step, TrainState]:
    """The step (loss of all heads, gradients, AdamW) on one device without augmentation, and its first state.

    The state takes the memory of `params` along: it is donated.
    """
    mesh = make_mesh(devices=jax.devices()[:1])

    def as_it_is(_: Any, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return batch["image"], batch["label"]

    state = jax.device_put(new_state(params, make_optimiser(config.optimiser), average=False), replicated(mesh))
    return make_train_step(config, apply, as_it_is, mesh, state), state


def seconds_of_a_step(step: Step, state: TrainState, batch: dict[str, Any], repeats: int) -> float:
    """The mean time of a step, the first one left out."""
    state, metrics = step(state, batch)
    jax.block_until_ready(metrics)
    start = time.perf_counter()
    for _ in range(repeats):
        state, metrics = step(state, batch)
    jax.block_until_ready(metrics)
    return (time.perf_counter() - start) / repeats
