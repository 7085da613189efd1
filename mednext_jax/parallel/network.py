"""A MedNeXt on a mesh: samples over the axis `data`, each volume's depth (and height) over the other axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mednext_jax.errors import InputError
from mednext_jax.model.config import LEVELS, MedNeXtConfig
from mednext_jax.model.mednext import MedNeXt
from mednext_jax.ops.local import LocalOps
from mednext_jax.parallel.sharded_ops import Layout, ShardedOps

Apply = Callable[[Any, jax.Array], Any]


def spread(config: MedNeXtConfig, mesh: Mesh, ops: LocalOps | None = None) -> Apply:
    """`apply(params, x)`: the network's logits of x (n, d, h, w, c) with every device computing its part.

    The first axis of `mesh` splits n; the second d and the third, if there is one, h. `ops` are the operations of
    one device. Logits lie on the mesh as `volume_spec` says; deep supervision's coarse ones may be whole on every
    device of a volume. Numbers and gradients are those of one device but for the order of float32 sums.
    Raises InputError, when called, for an x that the mesh does not divide.
    """
    local = LocalOps() if ops is None else ops
    if mesh.size == 1:
        alone = MedNeXt(config, local)
        return lambda params, x: alone.apply({"params": params}, x)

    def apply(params: Any, x: jax.Array) -> Any:
        check_divides(mesh, x.shape[:4])
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
    names = (*mesh.axis_names[1:], None, None)[:3]
    sizes = (*mesh.axis_sizes[1:], 1, 1)[:3]
    names = tuple(name if size > 1 else None for name, size in zip(names, sizes, strict=True))
    radius = max(config.encoder_kernel_size, config.decoder_kernel_size) // 2
    return Layout(tuple(extents), names, sizes, radius)


def over_volumes(mesh: Mesh) -> NamedSharding:
    """A batch (n, d, h, w, ...) split over all axes of the mesh."""
    return NamedSharding(mesh, PartitionSpec(*mesh.axis_names))


def check_divides(mesh: Mesh, shape: Sequence[int]) -> None:
    """Raise InputError unless the mesh divides a batch of volumes of `shape` (n, d, h, w).

    Each part must have an even number of planes, at least 2: one level at least is computed on the parts.
    """
    samples, *volume = mesh.axis_sizes
    if shape[0] % samples:
        raise InputError(
            "The mesh does not divide the batch.",
            expected=f"a multiple of {samples} samples (config.mesh.data)",
            found=shape[0],
            mend="set config.mesh.data to a divisor of the batch, or a larger batch",
        )
    for name, extent, parts in zip("dh", shape[1:], volume, strict=False):
        if extent % (2 * parts):
            raise InputError(
                f"The mesh does not divide the patch along {name}.",
                expected=f"a multiple of {2 * parts} planes: {parts} parts, each of an even number",
                found=extent,
                mend="use fewer devices for one patch (config.mesh.space), or a larger patch",
            )


def _spec(mesh: Mesh, layout: Layout, level: int) -> PartitionSpec:
    return PartitionSpec(mesh.axis_names[0], *layout.split(level))
