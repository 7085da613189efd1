"""The trainer's step on a batch that is there already, and its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.model.mednext import MedNeXt
from mednext_jax.ops.local import LocalOps
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


def step_of_network(
    network: MedNeXtConfig, ops: LocalOps, extent: int, samples: int
) -> tuple[Step, TrainState, dict[str, jax.Array]]:
    """`step_of_patches` of a network with random weights, and a batch of random patches of `extent` voxels an axis."""
    config = TrainConfig(batch_size=samples, patch_size=(extent,) * 3)
    net = MedNeXt(network, ops)
    params = jax.jit(MedNeXt(network).init)(jax.random.key(0), jnp.zeros((1, 16, 16, 16, 1)))["params"]
    step, state = step_of_patches(config, lambda p, x: net.apply({"params": p}, x), params)
    rng, shape = np.random.default_rng(0), (samples, *config.patch_size)
    image = jnp.asarray(rng.normal(size=(*shape, 1)), jnp.float32)
    label = jnp.asarray(rng.random(shape) > 0.99, jnp.int32)
    return step, state, {"image": image, "label": label, "row": jnp.arange(samples, dtype=jnp.int32)}


def seconds_of_a_step(step: Step, state: TrainState, batch: dict[str, Any], repeats: int) -> float:
    """The mean time of a step, the first one left out."""
    state, metrics = step(state, batch)
    jax.block_until_ready(metrics)
    start = time.perf_counter()
    for _ in range(repeats):
        state, metrics = step(state, batch)
    jax.block_until_ready(metrics)
    return (time.perf_counter() - start) / repeats
