"""What is odd about one scan, and how sizes are written."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.io.geometry import in_mm, scan_warnings, voxel_volume
from mednext_jax.io.nifti import read_scan

pytestmark = pytest.mark.core


@pytest.mark.parametrize(("value", "expected"), [(-100_000.0, "up to 1e+05"), (1000.0, None)])
def test_voxels_far_beyond_all_others_are_warned_of(value, expected):
    voxels = np.random.default_rng(0).normal(300, 80, (40, 36, 32)).astype(np.float32)
    voxels[3, 2, 1] = value
    found = scan_warnings(read_scan(nib.Nifti1Image(voxels, np.eye(4))), "a.nii")
    far = [warning.found for warning in found if warning.what == "Some voxels are far beyond all others."]
    assert far == ([] if expected is None else [expected])


def test_sizes_are_written_in_the_order_of_files():
    assert in_mm((0.8, np.float32(0.7), 1.0)) == "0.8 x 0.7 x 1 mm"


def test_the_volume_of_a_voxel_on_flipped_and_sheared_grids():
    assert voxel_volume(np.diag([-0.7, 0.8, 0.5, 1])) == 0.28
    sheared = np.array([[1, 0.6, 0, 3], [0, 0.8, 0, -7], [0, 0, 2, 1], [0, 0, 0, 1]])  # sizes 1, 1, 2 mm
    assert voxel_volume(sheared) == voxel_volume(sheared[:3, :3]) == 1.6
