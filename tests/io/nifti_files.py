"""Small NIfTI files for the tests, and ways to damage them."""

from __future__ import annotations

import struct

import nibabel as nib
import numpy as np

SHAPE = (5, 4, 3)
VOXELS = np.arange(60, dtype=np.int16).reshape(SHAPE)


def save(path, voxels=VOXELS, affine=None):
    nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine).to_filename(path)


def patch_header(path, offset, form, *values):
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, offset, *values)
    path.write_bytes(data)


def with_voxel(value):
    voxels = VOXELS.astype(np.float32)
    voxels[2, 1, 0] = value
    return voxels
