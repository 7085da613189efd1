"""Headers of files: hostile ones take nothing, values off by rounding are what they mean."""

from __future__ import annotations

import gzip
import tracemalloc

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mednext_jax.errors import InputError
from mednext_jax.io.geometry import scan_warnings
from mednext_jax.io.nifti import (
    from_volume,
    image_like,
    read_scan,
    to_volume,
    write_image,
)
from tests.io.nifti_files import VOXELS, patch_header, save

pytestmark = pytest.mark.core


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dims", [(1000, 1000, 1000), (32767, 32767, 32767)])
def test_a_hostile_header_takes_no_memory(tmp_path, dims, compressed):
    path = tmp_path / "a.nii"
    save(path)
    patch_header(path, 42, "<3h", *dims)
    if compressed:
        path = tmp_path / "a.nii.gz"
        path.write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes()))
    tracemalloc.start()
    with pytest.raises(InputError, match="too short|more voxels"):
        read_scan(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_header_with_any_bytes_is_read_and_written_or_refused(tmp_path, changes):
    path = tmp_path / "a.nii"
    save(path)
    data = bytearray(path.read_bytes())
    for position, value in changes:
        data[position] = value
    path.write_bytes(data)
    try:
        image = read_scan(path)
    except InputError:
        return
    scan_warnings(image, path)
    volume, _, grid = to_volume(image)
    write_image(tmp_path / "b.nii", image_like(from_volume(volume[..., 0], grid) > 30, grid, np.uint8))
    np.testing.assert_array_equal(nib.load(tmp_path / "b.nii").affine, image.affine)


@pytest.mark.parametrize("name", ["a.nii.gz", "b.NII.GZ", "c.Nii"])
def test_endings_are_read_in_any_case(tmp_path, name):
    save(tmp_path / "s.nii.gz" if name.lower().endswith("gz") else tmp_path / "s.nii")
    next(tmp_path.iterdir()).rename(tmp_path / name)
    np.testing.assert_array_equal(np.asarray(read_scan(tmp_path / name).dataobj), VOXELS)


def rotated(kind, length):
    """An image that only its qform places, by a half turn whose quaternion has `length` instead of 1."""
    image = kind(VOXELS, None)
    image.header["pixdim"][:4] = -1, 0.7, 0.8, 1.2
    image.header["qform_code"] = 1
    quaternion = np.array([0.6, 0.8, 0.0]) * length
    image.header["quatern_b"], image.header["quatern_c"], image.header["quatern_d"] = quaternion
    return image


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("length", [1, 1 + 1e-6, 1.0001, 1.005])
def test_a_quaternion_a_little_longer_than_one_is_the_rotation_it_means(tmp_path, kind, length):
    rotated(kind, length).to_filename(tmp_path / "a.nii")
    image = read_scan(tmp_path / "a.nii")
    # A half turn about (0.6, 0.8, 0), then the third axis is turned round.
    turn = np.array([[-0.28, 0.96, 0], [0.96, 0.28, 0], [0, 0, 1]]) * (0.7, 0.8, 1.2)
    np.testing.assert_allclose(image.affine[:3, :3], turn, atol=1e-6)
    assert [w.what for w in scan_warnings(image, "a.nii")] == ["The scan is small."]


def test_a_quaternion_that_is_no_rotation_is_refused(tmp_path):
    rotated(nib.Nifti1Image, 3).to_filename(tmp_path / "a.nii")
    with pytest.raises(InputError, match="damaged"):
        read_scan(tmp_path / "a.nii")


@pytest.mark.parametrize(
    ("offset", "form", "value"), [(108, "<f", 352 - 3e-5), (108, "<f", 352 + 3e-5), (76, "<f", -0.9999999)]
)
def test_an_offset_and_a_qfac_off_by_rounding_are_what_they_mean(tmp_path, offset, form, value):
    path = tmp_path / "a.nii"
    rotated(nib.Nifti1Image, 1).to_filename(path)
    expected = read_scan(path)
    patch_header(path, offset, form, value)
    image = read_scan(path)
    np.testing.assert_array_equal(np.asarray(image.dataobj), VOXELS)
    np.testing.assert_array_equal(image.affine, expected.affine)
