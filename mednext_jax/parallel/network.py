"""A MedNeXt on a mesh: samples over the axis `data`, each volume's depth (and height) over the other axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from mednext_jax.errors import InputError
from mednext_jax.model.config import LEVELS, MedNeXtConfig
from mednext_jax.model.mednext import MedNeXt
from mednext_jax.ops.local import LocalOps
from mednext_jax.parallel.sharded_ops import Layout, ShardedOps

Apply = Callable[[Any, jax.Array], Any]


def spread(config: MedNeXtConfig, mesh: Mesh, ops: LocalOps | None = None) -> Apply:
    """`apply(params, x)`: the network's logits of x (n, d, h, w, c) with every device computing its part.

    The first axis of `mesh` splits n; the second d and the third, if there is one, h. `ops` are the operations of
    one device. Logits are split over the mesh as x is; deep supervision's coarse ones may be whole on every
    device of a volume. Numbers and gradients are those of one device but for the order of float32 sums.
    Raises InputError, when called, for an x that the mesh does not divide.
    """
    local = LocalOps() if ops is None else ops
    if mesh.size == 1:
        alone = MedNeXt(config, local)
        return lambda params, x: alone.apply({"params": params}, x)

    def apply(params: Any, x: jax.Array) -> Any:
        check_divides(config, mesh, x.shape)
        layout = layout_of(config, mesh, x.shape[1:4])
        net = MedNeXt(config, ShardedOps(layout=layout, local=local))
        heads = tuple(_spec(mesh, layout, level) for level in range(LEVELS + 1))
        run = jax.shard_map(
            lambda params, x: net.apply({"params": params}, x),
            mesh=mesh,
            in_specs=(PartitionSpec(), _spec(mesh, layout, 0)),
            out_specs=heads if config.deep_supervision else heads[0],
            # Kernels for one device do not say over which axes their results vary.
            check_vma=False,
        )
        return run(params, x)

    return apply


def layout_of(config: MedNeXtConfig, mesh: Mesh, extents: Sequence[int]) -> Layout:
    """How the volumes of a batch with these (d, h, w) lie on `mesh`, level by level."""
    d, h, w = extents
    parts = [(name, size) for name, size in mesh.shape.items() if name != mesh.axis_names[0]]
    (space, spaces), (height, heights) = (*parts, (None, 1), (None, 1))[:2]
    radius = max(config.encoder_kernel_size, config.decoder_kernel_size) // 2
    names = (space if spaces > 1 else None, height if heights > 1 else None, None)
    return Layout((d, h, w), names, (spaces, heights, 1), radius)


def check_divides(config: MedNeXtConfig, mesh: Mesh, shape: Sequence[int]) -> None:
    """Raise InputError unless a batch of volumes of `shape` (n, d, h, w) can be split over `mesh`.

    At full resolution each part must have an even number of planes and those of a halo.
    """
    samples = mesh.axis_sizes[0]
    if shape[0] % samples:
        raise InputError(
            "The mesh does not divide the batch.",
            expected=f"a multiple of {samples} (config.mesh.data) samples at a time",
            found=shape[0],
            hint="set config.mesh.data to a divisor of it, or a larger config.batch_size",
        )
    layout = layout_of(config, mesh, shape[1:4])
    for axis, found, name, parts in zip("dhw", layout.split(0), layout.names, layout.sizes, strict=True):
        if found != name:
            raise InputError(
                f"The mesh does not divide the patch along {axis}.",
                expected=f"{parts} parts (config.mesh.{name}) with an even number of planes, at least {layout.radius}",
                found=f"{shape['dhw'.index(axis) + 1]} planes",
                hint=f"lower config.mesh.{name}, or use a larger patch",
            )


def _spec(mesh: Mesh, layout: Layout, level: int) -> PartitionSpec:
    return PartitionSpec(mesh.axis_names[0], *layout.split(level))
