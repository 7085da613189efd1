"""Do two images lie on one voxel grid? Masks are compared voxel by voxel only if they do."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np

from mednext_jax.errors import InputError

# Editors round affines to float32 or rebuild them from quaternions (1e-4 mm); a shifted grid is off by a voxel.
TOLERANCE_VOXELS = 0.1


def require_same_grid(image: nib.Nifti1Image, reference: nib.Nifti1Image) -> None:
    """Raise InputError if two 3D images differ in shape, or by more than a tenth of a voxel at any corner."""
    if image.shape == reference.shape:
        corners = np.array(list(itertools.product(*((0, n - 1) for n in image.shape))))
        apart = corners @ (image.affine - reference.affine)[:3, :3].T + (image.affine - reference.affine)[:3, 3]
        voxel = nib.affines.voxel_sizes(reference.affine).min()
        worst = float(np.linalg.norm(apart, axis=1).max() / voxel)
        if worst <= TOLERANCE_VOXELS:
            return
        expected, found = "the same affine", f"affines that are up to {worst:.2g} voxels apart"
    else:
        expected, found = f"shape {reference.shape}", f"shape {image.shape}"
    raise InputError(
        f"The image is not on the grid of {reference.get_filename() or 'its reference'}.",
        file=image.get_filename(),
        expected=expected,
        found=found,
        mend="resample it to that grid with nearest neighbour, or turn its axes back to those of the scan",
    )
