"""What the headers of a cohort's scans show before the first is computed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np

from mednext_jax.errors import InputError, Problem
from mednext_jax.inference.scans import Scan
from mednext_jax.io.geometry import grid_warnings
from mednext_jax.io.nifti import Grid, grid_of, spacing_warnings
from mednext_jax.io.voxels import open_voxels
from mednext_jax.weights.recipe import Recipe

_READERS = 8


def warnings_of(scans: Sequence[Scan], recipe: Recipe) -> list[Problem]:
    """What is odd about the headers of the scans."""
    with ThreadPoolExecutor(_READERS) as pool:
        found = list(pool.map(lambda file: _warnings(file, recipe), (f for scan in scans for f in scan.files)))
    return list(itertools.chain.from_iterable(found))


def size_of(file: Path, orientation: str | None) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Voxels (d, h, w) of a scan as the network sees it, and their size in mm, from its header."""
    _, grid = _grid(file, orientation)
    return grid.to_network(np.broadcast_to(np.uint8(0), grid.shape)).shape, grid.spacing


def _grid(file: Path, orientation: str | None) -> tuple[nib.Nifti1Image, Grid]:
    header = open_voxels(file)
    image = header.image(np.broadcast_to(np.uint8(0), header.shape))
    return image, grid_of(image, orientation)


def _warnings(file: Path, recipe: Recipe) -> list[Problem]:
    try:
        image, grid = _grid(file, recipe.orientation)
    except InputError:  # told when the voxels are read
        return []
    return grid_warnings(image, file) + spacing_warnings(grid, recipe.spacing, file)
