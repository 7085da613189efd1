"""Maps beside a mask: another grid is refused before its voxels take memory, wrong values are told."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.errors import InputError
from mednext_jax.report.on_grid import read_clusters, read_probability

pytestmark = pytest.mark.core

MASK = nib.Nifti1Image(np.zeros((8, 9, 10), np.uint8), np.eye(4))


def saved(path, array, affine=None):
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def test_clusters_beyond_16_bits_are_read(tmp_path):
    labels = np.zeros((50, 50, 50), np.int32)
    labels[:, :, ::2] = np.arange(1, 50 * 50 * 25 + 1).reshape(50, 50, 25)
    mask = nib.Nifti1Image((labels > 0).astype(np.uint8), np.eye(4))
    assert (read_clusters(saved(tmp_path / "c.nii.gz", labels), mask, "m").get_fdata() == labels).all()


@pytest.mark.parametrize("value", [-1, 2.5, 1e9, np.nan])
def test_numbers_that_are_no_clusters_are_refused(tmp_path, value):
    """A number far above the count would take gigabytes to count by."""
    labels = np.zeros((8, 9, 10), np.float32)
    labels[1, 1, 1] = value
    with pytest.raises(InputError, match="not numbered"):
        read_clusters(saved(tmp_path / "c.nii.gz", labels), MASK, "m")


@pytest.mark.parametrize("read", [read_clusters, read_probability])
def test_a_header_of_another_grid_is_refused_unread(tmp_path, read):
    """It declares terabytes, and there is nothing behind it."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_data_shape((20000, 20000, 2000))
    header.set_sform(np.eye(4), 1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(4) + bytes(1000)))
    with pytest.raises(InputError):
        read(tmp_path / "bomb.nii.gz", MASK, "m")
    moved = np.eye(4)
    moved[0, 3] = 30
    with pytest.raises(InputError, match="another affine than its mask"):
        read(saved(tmp_path / "moved.nii.gz", np.zeros((8, 9, 10), np.float32), moved), MASK, "m")


def test_a_small_shift_is_a_warning(tmp_path):
    moved = np.eye(4)
    moved[0, 3] = 0.4
    image, problems = read_probability(
        saved(tmp_path / "p.nii.gz", np.full((8, 9, 10), 0.5, np.float32), moved), MASK, "m"
    )
    assert [p.severity for p in problems] == ["W"] and image.get_fdata().max() == 0.5
