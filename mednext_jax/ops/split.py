"""How a volume is split over the devices of a mesh, axis by axis: what the operations inside `shard_map` are told."""

from __future__ import annotations

from jax import Array, lax

# The mesh axis that each of d, h and w is split over, none where every device holds the whole axis. Along a split axis
# a convolution's input comes with its halo, and sums run over all parts.
Split = tuple[str | None, str | None, str | None]
WHOLE: Split = (None, None, None)
# Along which of d, h and w a convolution's input holds its neighbours' voxels, too.
Halo = tuple[bool, bool, bool]


def halo_of(split: Split) -> Halo:
    """The axes along which a part of a volume comes with a halo: those that are split."""
    d, h, w = (name is not None for name in split)
    return d, h, w


def sum_of_parts(x: Array, split: Split) -> Array:
    """The sum of `x` over the devices that hold the parts of one volume; x itself of a whole one."""
    names = tuple(name for name in split if name)
    return lax.psum(x, names) if names else x
