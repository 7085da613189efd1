"""The real training step and the real prediction of a configuration, lowered for a mesh without data or weights."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from mednext_jax.data.augment import make_augment, read_size
from mednext_jax.inference.sliding_window import Window, _add_tiles
from mednext_jax.inference.tiles import bucket_shape, tile_starts
from mednext_jax.kernels.mosaic.lane_ops import LaneOps
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.model.mednext import MedNeXt
from mednext_jax.ops.local import LocalOps
from mednext_jax.parallel.network import check_divides, spread
from mednext_jax.parallel.parameters import state_like
from mednext_jax.train.configuration import TrainConfig
from mednext_jax.train.experiment import initial_state
from mednext_jax.train.step import make_train_step


def network_of(config: TrainConfig, channels: int = 1, classes: int = 2) -> MedNeXtConfig:
    """The architecture that `config` trains on a data set with these channels and classes."""
    return dataclasses.replace(config.model, in_channels=channels, num_classes=classes)


def abstract_params(network: MedNeXtConfig) -> Any:
    """The shapes of the network's parameters."""
    image = jax.ShapeDtypeStruct((1, 16, 16, 16, network.in_channels), jnp.float32)
    return jax.eval_shape(MedNeXt(network).init, jax.random.key(0), image)["params"]


def operations_in(form: str, platform: str) -> LocalOps:
    """The operations of a device of `platform` in a `form`: a TPU's "kernels", or everywhere "xla"."""
    return LaneOps() if form == "kernels" and platform == "tpu" else LocalOps(platform)


def operations_of(network: MedNeXtConfig, platform: str) -> LocalOps:
    """What `best_ops` takes on a device of `platform` that has checked its kernels; on a GPU XLA's operations."""
    takes = network.dtype == "bfloat16" and network.norm == "group" and not network.grn
    return operations_in("kernels" if takes else "xla", platform)


def lower_train_step(config: TrainConfig, mesh: Mesh, ops: LocalOps | None = None) -> jax.stages.Lowered:
    """One step on a batch as read from a data set of one channel and one foreground label; `ops` of a device."""
    network = network_of(config)
    check_divides(network, mesh, (config.batch_size, *config.patch_size))
    ops = ops or operations_of(network, mesh.devices.flat[0].platform)
    augment = make_augment(config.augment, config.patch_size, mesh, labels=(0, 1))
    state = state_like(functools.partial(initial_state, config, network), mesh, shared=config.mesh.share_state)
    step = make_train_step(config, spread(network, mesh, ops), augment, mesh, state)
    rows = (config.batch_size, *read_size(config.augment, config.patch_size))
    batch = {
        "image": jax.ShapeDtypeStruct((*rows, network.in_channels), jnp.float32),
        "label": jax.ShapeDtypeStruct(rows, jnp.int16),
        "row": jax.ShapeDtypeStruct(rows[:1], jnp.int32),
    }
    return step.lower(state, batch)


def lower_prediction(
    config: TrainConfig, devices: np.ndarray, volume: tuple[int, int, int], ops: LocalOps | None = None
) -> jax.stages.Lowered:
    """All tiles of one `volume` (d, h, w) with mirrors, spread over `devices`; `ops` of a device."""
    network, apply = _inference_network(config, ops, devices.flat[0].platform)
    mesh = Mesh(devices.reshape(-1), ("tiles",))
    window = _window(config, mesh)
    shape = bucket_shape(volume, window.patch_size, window.bucket)
    depth = -(-shape[0] // mesh.size) * mesh.size
    capacity = len(tile_starts(shape, window.patch_size, window.step))
    capacity = -(-capacity // window.tiles_at_once) * window.tiles_at_once
    whole, slabs = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("tiles"))

    def array(shape: tuple[int, ...], dtype: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    return _add_tiles.lower(
        window,
        apply,
        jax.tree.map(lambda p: array(p.shape, p.dtype, whole), abstract_params(network)),
        array((*shape, network.in_channels), jnp.float32, whole),
        array((capacity, 3), jnp.int32, whole),
        array((3,), jnp.int32, whole),
        array((depth, *shape[1:], network.num_classes - 1), jnp.float32, slabs),
        array((depth, *shape[1:], 1), jnp.float32, slabs),
    )


def lower_tile(config: TrainConfig, device: jax.Device, ops: LocalOps | None = None) -> jax.stages.Lowered:
    """The network on one tile, without mirrors, on one device, over its `ops`."""
    network, apply = _inference_network(config, ops, device.platform)
    place = SingleDeviceSharding(device)
    params = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=place), abstract_params(network))
    tile = jax.ShapeDtypeStruct((1, *config.patch_size, network.in_channels), jnp.float32, sharding=place)
    return jax.jit(apply).lower(params, tile)


def rounds_of_tiles(config: TrainConfig, devices: int, volume: tuple[int, int, int]) -> int:
    """How often the network runs on each of `devices` for one `volume`, mirrors included."""
    window = _window(config, None)
    tiles = len(tile_starts(volume, window.patch_size, window.step))
    return -(-tiles // devices) * 2 ** len(window.mirror_axes)


def _window(config: TrainConfig, mesh: Mesh | None) -> Window:
    return Window(config.patch_size, mirror_axes=config.augment.mirror_axes, mesh=mesh)


def _inference_network(
    config: TrainConfig, ops: LocalOps | None, platform: str
) -> tuple[MedNeXtConfig, Callable[[Any, jax.Array], Any]]:
    network = dataclasses.replace(network_of(config), remat="none", deep_supervision=False)
    net = MedNeXt(network, ops or operations_of(network, platform))
    return network, lambda params, x: net.apply({"params": params}, x)
