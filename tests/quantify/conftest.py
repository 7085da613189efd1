"""Masks of known PVS in a brain of boxes with FreeSurfer's numbers."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from tests.measure.brain import AFFINE, brain


def pvs_mask():
    """Left: putamen 6 voxels, centrum semiovale 8; right: white matter 5, thalamus 2; one voxel of cortex."""
    mask = np.zeros((40, 40, 40), np.uint8)
    mask[10:12, 19:22, 15] = 1
    mask[8, 10, 27:35] = 1
    mask[30, 8:13, 8] = 1
    mask[22, 14:16, 16] = 1
    mask[2, 30, 30] = 1
    return mask


@pytest.fixture
def save(tmp_path):
    """Writes an array on the brain's grid (or another `affine`) below tmp_path; returns the path."""

    def write(name, array, affine=AFFINE):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.asarray(array), affine), path)
        return path

    return write


@pytest.fixture
def cohort(save, tmp_path):
    """Masks of two cases with probabilities, and their region maps; returns (masks, maps)."""
    for case, mask in (("sub-1", pvs_mask()), ("sub-2", np.zeros_like(pvs_mask()))):
        save(f"masks/{case}_mask.nii.gz", mask)
        save(f"masks/{case}_probability.nii.gz", np.where(mask, 0.8, 0.05).astype(np.float32))
        save(f"maps/{case}.nii.gz", brain())
    return tmp_path / "masks", tmp_path / "maps"


@pytest.fixture
def write_json(tmp_path):
    def write(name, value):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
        return path

    return write
