"""nnU-Net's sampling rules."""

import numpy as np
import pytest

from mednext_jax.data.sampling import crop_start, is_forced_foreground, patch_before_rotation, pick_foreground

pytestmark = pytest.mark.core


@pytest.mark.parametrize(("batch", "forced"), [(2, 1), (3, 1), (4, 1), (6, 2), (12, 4)])
def test_the_last_third_of_a_batch_is_forced(batch, forced):
    rows = [is_forced_foreground(row, batch, 0.33) for row in range(batch)]
    assert rows == [False] * (batch - forced) + [True] * forced


@pytest.mark.parametrize(
    ("patch", "read"),  # nnunetv2 2.8.1 get_patch_size with rotation 30 degrees and scale (0.85, 1.25)
    [
        ((128, 128, 128), (205, 205, 205)),
        ((64, 64, 64), (102, 102, 102)),
        ((96, 160, 160), (191, 257, 219)),
        ((112, 160, 128), (208, 238, 196)),
    ],
)
def test_read_size_is_nnunets(patch, read):
    assert patch_before_rotation(patch, 30, 0.85) == read


def nnunet_bounds(extent, read, patch):
    """The limits of nnunetv2 `get_bbox`, written as there."""
    need_to_pad = read - patch
    if need_to_pad + extent < read:
        need_to_pad = read - extent
    return -need_to_pad // 2, extent + need_to_pad // 2 + need_to_pad % 2 - read


@pytest.mark.parametrize(
    ("extent", "read", "patch"), [(50, 32, 32), (50, 41, 32), (20, 32, 32), (21, 41, 32), (32, 32, 32)]
)
def test_random_crops_cover_exactly_nnunets_range(extent, read, patch):
    rng = np.random.default_rng(0)
    drawn = {crop_start(rng, (extent,) * 3, (read,) * 3, (patch,) * 3)[0] for _ in range(1000)}
    low, high = nnunet_bounds(extent, read, patch)
    assert drawn == set(range(low, high + 1))


def test_a_forced_crop_is_centred_on_the_voxel_but_for_the_lower_border():
    rng = np.random.default_rng(0)
    shape, size = (60, 60, 60), (32, 32, 32)
    assert crop_start(rng, shape, size, size, (30, 40, 59)) == (14, 24, 43)
    assert crop_start(rng, shape, size, size, (3, 16, 17)) == (0, 0, 1)


def test_labels_are_picked_equally_often_however_many_voxels_they_have():
    rng = np.random.default_rng(0)
    foreground = {1: np.full((10_000, 3), 1), 2: np.full((2, 3), 2), 3: np.zeros((0, 3), int)}
    picked = [pick_foreground(rng, foreground) for _ in range(2000)]
    share = np.mean([voxel == (2, 2, 2) for voxel in picked])
    assert abs(share - 0.5) < 0.05  # four standard deviations
    assert pick_foreground(rng, {1: np.zeros((0, 3), int)}) is None
