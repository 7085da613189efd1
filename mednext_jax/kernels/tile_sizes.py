"""Which tile sizes each kernel runs with.

A user's own table for the GPU at hand (`user_tiles`) comes before the package's (`tuned_tiles`); of that, the entries
for GPUs with little shared memory come before an H100's, which tests compile for sm_90 and fail on a spill.
Depthwise kernels are looked up by the size of the kernel and of the (coarse) grid: the entry of the largest extent that
is not above the grid's. The fused norm and MLP is looked up by its channels in and out; where it has no entry, plain
matrix products through memory are as fast or the channels are not a power of two.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax

from mednext_jax.kernels.gpus import SHARED_BYTES, capability_of
from mednext_jax.kernels.tuned_tiles import SMALL_TILES, TILES, Tiles
from mednext_jax.kernels.user_tiles import tiles_here

_NARROWEST = 16  # the tensor cores' own tile
_MOST_SHARED = SHARED_BYTES["8.0"]  # the table's entries fit an A100, too


def entry(kernel: str, first: int, second: int) -> Tiles | None:
    """The tables' entry; every look-up ends here."""
    key = kernel, first, second
    small = SMALL_TILES.get(key) if shared_bytes() < _MOST_SHARED else None
    return tiles_here().get(key) or small or TILES.get(key)


def depthwise_tiles(kernel: str, k: int, extents: Sequence[int]) -> dict[str, int]:
    """The tile sizes of a depthwise `kernel` with k taps per axis, for outputs (or coarse voxels) of `extents` (3,).

    "planes" and "rows" never exceed the extents, and "planes" divides the depth as evenly as it can.
    """
    known = [extent for name, taps, extent in TILES if name == kernel and taps == k]
    extent = max((e for e in known if e <= min(extents)), default=min(known))
    tiles = dict(entry(kernel, k, extent) or {})
    depth = extents[0]
    chunks = -(-depth // min(tiles["planes"], depth))
    tiles["planes"] = -(-depth // chunks)
    tiles["rows"] = min(tiles["rows"], extents[1])
    return tiles


@functools.cache
def shared_bytes() -> int:
    """The shared memory of a block on the first device, as much as any entry needs where that is no known GPU."""
    return SHARED_BYTES.get(capability_of(jax.devices()[0]), _MOST_SHARED)


def has_kernel_size(k: int) -> bool:
    """Whether the table has depthwise kernels with k taps per axis."""
    return any(name == "correlate" and taps == k for name, taps, _ in TILES)


def mlp_tiles(kernel: str, channels: int, out_channels: int, hidden: int) -> dict[str, int] | None:
    """The tile sizes of a fused MLP `kernel`; None where it should not run.

    An entry's "most" is the largest hidden width that it takes (its sums stay in registers); its "hidden" is halved
    until it divides the width.
    """
    tiles = entry(kernel, channels, out_channels)
    if tiles is None or hidden > tiles.get("most", hidden):
        return None
    width = tiles["hidden"]
    while hidden % width:
        width //= 2
        if width < _NARROWEST:
            return None
    return {**tiles, "hidden": width}
