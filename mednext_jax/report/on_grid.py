"""Reading what lies on a mask's grid: the header is judged before any voxel takes memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from mednext_jax.errors import InputError, Problem
from mednext_jax.io.geometry import grid_problems
from mednext_jax.io.voxels import Voxels, open_voxels

TOLERANCE = 1e-3  # of a probability stored in 16 bits


def read_probability(path: Path, mask: nib.Nifti1Image, mask_path: Path) -> tuple[nib.Nifti1Image, list[Problem]]:
    """A map of probabilities as float32, and warnings; InputError if it is damaged, elsewhere or beyond 0 to 1."""
    voxels, problems = _opened(path, mask, mask_path, "A probability map")
    values = _values(voxels, np.float32)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1 + TOLERANCE):  # NaN, too
        raise InputError("The probabilities are none.", file=path, expected="0 to 1", found=f"{low:g} to {high:g}")
    return voxels.image(values), problems


def read_uncertainty(path: Path, mask: nib.Nifti1Image, mask_path: Path) -> nib.Nifti1Image:
    """A map of `predict --uncertainty` as float32; InputError if it is damaged, elsewhere or beyond 0 to 1."""
    voxels, _ = _opened(path, mask, mask_path, "A map of uncertainty")
    values = _values(voxels, np.float32)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1 + TOLERANCE):  # NaN, too
        raise InputError("The map is none of uncertainty.", file=path, expected="0 to 1", found=f"{low:g} to {high:g}")
    return voxels.image(values)


def read_clusters(path: Path, mask: nib.Nifti1Image, mask_path: Path) -> nib.Nifti1Image:
    """A map of numbered clusters as int32; InputError if it is damaged, elsewhere, or not numbered 1, 2, ..."""
    voxels, _ = _opened(path, mask, mask_path, "A cluster map")
    values = _values(voxels, np.float64)
    whole = np.isfinite(values).all() and (values == np.rint(values)).all()
    most = np.count_nonzero(values)  # of clusters of one voxel
    if not (whole and values.min() >= 0 and values.max() <= most):
        found = f"{values.min():g} to {values.max():g}"
        raise InputError(
            "The clusters are not numbered.", file=path, expected="0, 1, 2, ... in each voxel", found=found
        )
    return voxels.image(values.astype(np.int32))


def same_grid(
    image: nib.Nifti1Image, mask: nib.Nifti1Image, what: str, path: Path, mask_path: Path
) -> Sequence[Problem]:
    """How an image lies beside the mask's voxels, as warnings; InputError if it is on another grid."""
    problems = grid_problems(image, mask, what, path, mask_path)
    problems = [dataclasses.replace(p, what=p.what.replace("than its scan", "than its mask")) for p in problems]
    if any(problem.severity == "E" for problem in problems):
        raise InputError.of(problems)
    return problems


def _opened(path: Path, mask: nib.Nifti1Image, mask_path: Path, what: str) -> tuple[Voxels, list[Problem]]:
    voxels = open_voxels(path)
    empty = voxels.image(np.broadcast_to(np.uint8(0), voxels.shape))
    return voxels, list(same_grid(empty, mask, what, path, mask_path))


def _values(voxels: Voxels, dtype: type) -> np.ndarray:
    flat = np.concatenate([piece.astype(dtype, copy=False) for piece in voxels.pieces()])
    return flat.reshape(voxels.shape, order="F")
