"""Where a training patch lies: nnU-Net's sampling rules as pure functions of a random generator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def is_forced_foreground(row: int, batch_size: int, fraction: float) -> bool:
    """Whether row `row` of a batch must contain foreground: the last `fraction` of the rows, rounded.

    With nnU-Net's 0.33: the second of two, the last of three or four.
    Source: nnunetv2 `nnUNetDataLoader._oversample_last_XX_percent`.
    """
    return not row < round(batch_size * (1 - fraction))


def patch_before_rotation(patch_size: Sequence[int], degrees: float, smallest_scale: float) -> tuple[int, int, int]:
    """The extent to read so that a patch rotated by up to `degrees` on each axis and scaled stays inside it.

    `patch_size`: voxels (d, h, w). `smallest_scale`: the lower end of nnU-Net's (0.85, 1.25), not of the drawn
    range. 128³, 30 degrees, 0.85 gives 205³. Source: nnunetv2 `get_patch_size`.
    """
    angle = np.deg2rad(degrees)
    c, s = np.cos(angle), np.sin(angle)
    size = np.asarray(patch_size, float)
    rotations = (
        np.array([[1, 0, 0], [0, c, -s], [0, s, c]]),
        np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]),
        np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]),
    )
    # nnU-Net multiplies the row vector from the left, so each rotation is applied transposed.
    largest = np.max([size, *(np.abs(size @ rotation) for rotation in rotations)], axis=0)
    d, h, w = (largest / smallest_scale).astype(int)
    return int(d), int(h), int(w)


def crop_start(
    rng: np.random.Generator,
    shape: Sequence[int],
    read_size: Sequence[int],
    patch_size: Sequence[int],
    voxel: Sequence[int] | None = None,
) -> tuple[int, int, int]:
    """The first voxel of a crop of `read_size` from a case of `shape`, all (d, h, w); it may lie outside.

    A random crop may reach over the border by half of what `read_size` adds to `patch_size`. With `voxel` the
    crop is centred on it and then only kept from starting before that border.
    Source: nnunetv2 `nnUNetDataLoader.get_bbox`.
    """
    start = []
    for axis, (extent, read, patch) in enumerate(zip(shape, read_size, patch_size, strict=True)):
        pad = max(read - patch, read - extent)
        low = -pad // 2
        high = extent + pad // 2 + pad % 2 - read
        if voxel is None:
            start.append(int(rng.integers(low, high + 1)))
        else:
            start.append(max(low, int(voxel[axis]) - read // 2))
    return start[0], start[1], start[2]


def pick_foreground(rng: np.random.Generator, foreground: Mapping[int, np.ndarray]) -> tuple[int, int, int] | None:
    """A stored foreground voxel: first a label uniformly among those present, then a voxel; None if there is none.

    `foreground`: label -> (n, 3) voxels (d, h, w). Source: nnunetv2 `nnUNetDataLoader.get_bbox`.
    """
    present = sorted(label for label, voxels in foreground.items() if len(voxels))
    if not present:
        return None
    voxels = foreground[present[rng.integers(len(present))]]
    d, h, w = voxels[rng.integers(len(voxels))]
    return int(d), int(h), int(w)
