"""Where the tiles of a sliding window start, and how much each voxel of a tile counts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np


def axis_starts(size: int, patch: int, step: float) -> list[int]:
    """First voxels of the tiles along one axis; `step` is a fraction of the patch.

    As nnU-Net v2 (`compute_steps_for_sliding_window`): the fewest tiles that are at most `step` apart, spread
    evenly, each start rounded to the nearest integer and halves to the even one (NumPy's rule).
    Raises ValueError for an axis shorter than the patch or a step outside (0, 1].
    """
    if size < patch:
        raise ValueError(f"an axis of {size} voxels is shorter than the patch of {patch}; pad it first")
    if not 0 < step <= 1:
        raise ValueError(f"step must be in (0, 1], not {step}")
    count = math.ceil((size - patch) / (patch * step)) + 1
    if count == 1:
        return [0]
    actual = (size - patch) / (count - 1)
    return [int(np.round(actual * i)) for i in range(count)]


def tile_starts(size: Sequence[int], patch: Sequence[int], step: float) -> np.ndarray:
    """Start voxels (n, 3) int32 of all tiles of a volume `size` (d, h, w), the last axis fastest."""
    axes = [axis_starts(s, p, step) for s, p in zip(size, patch, strict=True)]
    return np.array(list(itertools.product(*axes)), np.int32)


def gaussian_profile(patch: int) -> np.ndarray:
    """One axis of the tile weights, (patch,) float32: a Gaussian of sigma patch/8 centred on voxel patch//2.

    nnU-Net filters a delta (scipy `gaussian_filter`); its truncation at four sigma keeps the whole patch, so that
    this formula gives the same map. Float32 holds the corner weights (4e-11 for 128^3) that nnU-Net's float16
    loses.
    """
    offset = (np.arange(patch, dtype=np.float64) - patch // 2) / (patch / 8)
    return np.exp(-0.5 * offset**2).astype(np.float32)


def pad_to_patch(size: Sequence[int], patch: Sequence[int]) -> list[tuple[int, int]]:
    """Zeros before and after each axis so that it holds one patch; as nnU-Net, the odd one goes after."""
    missing = [max(p - s, 0) for s, p in zip(size, patch, strict=True)]
    return [(m // 2, m - m // 2) for m in missing]


def bucket_shape(size: Sequence[int], patch: Sequence[int], multiple: int) -> tuple[int, ...]:
    """The shape that a volume of `size` is stored in on the device: each axis up to a multiple, at least the patch.

    Volumes that share a bucket share one compiled program.
    """
    return tuple(max(-(-s // multiple) * multiple, p) for s, p in zip(size, patch, strict=True))
