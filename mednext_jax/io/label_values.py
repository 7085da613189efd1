"""What the values of a label map, a region map or a mask say about a file that is none."""

from __future__ import annotations

import os

import nibabel as nib
import numpy as np

from mednext_jax.errors import Problem


def value_problems(image: nib.Nifti1Image, path: str | os.PathLike) -> list[Problem]:
    """An error if a label map has values below 0: labels above 127 in a signed byte, such as 255, come out so."""
    values = np.asanyarray(image.dataobj)
    low = int(values.min())
    if low >= 0:
        return []
    return [
        Problem(
            "The label map has values below 0.",
            str(path),
            expected="0 for background, labels above 0",
            found=f"{low} to {int(values.max())}, {int((values < 0).sum())} voxels below 0",
            hint="a label above 127 that was stored as int8 (255 becomes -1): store it as uint8 again",
        )
    ]


def mask_warnings(image: nib.Nifti1Image, path: str | os.PathLike) -> list[Problem]:
    """A warning if a mask has several values above 0, all of which count: a probability, a parcellation or a scan."""
    values = np.unique(np.asanyarray(image.dataobj))
    values = values[values != 0]
    if len(values) < 2:
        return []
    return [
        Problem(
            "The brain mask has several values.",
            str(path),
            expected="0 and one other value",
            found=f"{len(values)} values from {values.min()} to {values.max()}",
            hint="every voxel that is not 0 counts as brain; threshold a probability map first",
            severity="W",
        )
    ]
