"""The picture of a scan with found, missed and wrongly found PVS."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.errors import InputError
from mednext_jax.evaluate.found_and_missed import BOTH, EXTRA, MISSED, draw_comparison

pytestmark = pytest.mark.core

matplotlib = pytest.importorskip("matplotlib")


@pytest.fixture
def files(tmp_path):
    """A scan and, in its slice 6, a square of the truth and one of the prediction that share four voxels."""
    scan = np.random.default_rng(0).normal(100, 10, (24, 24, 12)).astype(np.float32)
    truth, prediction = np.zeros((2, 24, 24, 12), np.uint8)
    truth[8:12, 8:12, 6] = 1
    prediction[10:14, 10:14, 6] = 1
    paths = []
    for name, array in (("scan", scan), ("truth", truth), ("prediction", prediction)):
        paths.append(tmp_path / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(array, np.eye(4)), paths[-1])
    return paths


def test_found_missed_and_wrongly_found_have_their_colours(files, tmp_path):
    draw_comparison(*files, tmp_path / "picture.png")
    pixels = matplotlib.image.imread(tmp_path / "picture.png")[..., :3]
    for colour in (BOTH, MISSED, EXTRA):
        near = np.abs(pixels - matplotlib.colors.to_rgb(colour)).max(-1) < 0.15
        assert near.sum() > 50  # more than the legend's frame


def test_another_grid_is_refused(files, tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((5, 5, 5), np.uint8), np.eye(4)), files[2])
    with pytest.raises(InputError, match="not on one grid"):
        draw_comparison(*files, tmp_path / "picture.png")
    assert not (tmp_path / "picture.png").exists()
