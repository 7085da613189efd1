"""The packaged atlas on a scan whose pose is known, and scans that it refuses."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from mednext_jax.errors import InputError
from mednext_jax.quantify import atlas
from mednext_jax.quantify.region_source import open_regions


@pytest.fixture(scope="module")
def posed():
    """The template turned, scaled and moved, as a scan of 3 mm voxels: (image, template position -> its position)."""
    pytest.importorskip("SimpleITK")
    template, _ = atlas._template()
    to_scan = np.eye(4)
    to_scan[:3, :3] = Rotation.from_euler("xyz", [6, -4, 8], degrees=True).as_matrix() @ np.diag([1.06, 0.96, 1.02])
    to_scan[:3, 3] = [9, -14, 6]
    affine = np.diag([-3.0, 3, 3, 1])
    affine[:3, 3] = [110, -140, -110]
    grid = np.diag([atlas.GRID_MM] * 3 + [1.0])
    grid[:3, 3] = template.origin
    to_voxel = np.linalg.inv(to_scan @ grid) @ affine
    voxels = ndimage.affine_transform(template.array, to_voxel, output_shape=(72, 84, 76), order=1)
    return nib.Nifti1Image(np.where(voxels > 100, voxels, 0).astype(np.float32), affine), to_scan


def test_the_atlas_lies_where_the_brain_was_put(posed):
    image, to_scan = posed
    mask = nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine)
    found = open_regions("atlas")("sub-1", mask, image)
    (note,) = found.notes
    assert f"overlap of the brains {found.overlap:.3f}" in note and 0.95 < found.overlap <= 1
    _, plain = atlas._template()
    corners = np.array([[-30.0, 20, 10], [30, 20, 10], [0, -60, -20], [0, 40, 40], [-45, -20, 30]])
    expected = nib.affines.apply_affine(to_scan, corners)
    moved = nib.affines.apply_affine(found.brain.affine @ np.linalg.inv(plain.affine), corners)
    assert np.linalg.norm(moved - expected, axis=1).max() < 3
    assert {"basal ganglia", "white matter", "thalamus"} <= {s.region for s in found.brain.structures}


def test_what_is_no_brain_of_the_template_s_shape(posed):
    image, _ = posed
    mask = nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine)
    box = np.zeros(image.shape, np.float32)
    box[10:60, 36:48, 10:66] = np.random.default_rng(0).uniform(50, 100, (50, 12, 56))
    with pytest.raises(InputError, match=r"does not fit[\s\S]*0\.9 or more"):
        atlas.register_atlas("a", nib.Nifti1Image(box, image.affine), mask)
    with pytest.raises(InputError, match="whole head"):
        atlas.register_atlas("a", nib.Nifti1Image(box + 1, image.affine), mask)
    with pytest.raises(InputError, match="--scans"):
        atlas.register_atlas("a", None, mask)


def test_packages_that_are_missing_are_named(monkeypatch):
    monkeypatch.setattr(atlas, "PACKAGES", ("numpy", "not_installed_at_all"))
    with pytest.raises(InputError, match=r"not_installed_at_all[\s\S]*mednext-jax\[quantify\]"):
        atlas.register_atlas("a", None, nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)))
