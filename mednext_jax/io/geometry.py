"""Where scans lie in space: whether two share a grid, and what is odd about one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

import nibabel as nib
import numpy as np

from mednext_jax.errors import Problem

# Beyond a tenth of a voxel at a corner two grids are not the same; beyond a whole one the labels are on other anatomy.
SAME_GRID, OTHER_GRID = 0.1, 1.0
SPACING_TOLERANCE = 1e-3
THICK_SLICES = 3.0
# A network of 16-fold pooling sees less than two bottleneck voxels along a shorter axis.
FEW_VOXELS = 32
# Vessels and eyes are up to ten times as bright as the brain.
FAR_INTENSITY = 100.0
FAR_SPACING = 1.5  # times the model's voxel size, or as much below it
MILLIMETRES = 2
UNITS = {1: "metre", 3: "micrometre"}


def grid_problems(
    image: nib.Nifti1Image, reference: nib.Nifti1Image, what: str, file: object, of: object
) -> list[Problem]:
    """What keeps `image` from lying voxel by voxel on `reference`; `what` names it, `file` and `of` are their paths.

    Errors: another shape, voxel size, orientation, or more than one voxel apart at a corner. Warning: more than 0.1.
    """

    def problem(difference: str, expected: object, found: object, severity="E") -> Problem:
        hint = "resample it onto the grid of the scan (nearest neighbour for labels), or find the right pair"
        text = f"{what} has {difference} than its scan."
        return Problem(text, str(file), f"{expected} as in {of}", str(found), hint, severity)

    if image.shape != reference.shape:
        return [problem("another shape", reference.shape, image.shape)]
    ours, theirs = (nib.affines.voxel_sizes(x.affine) for x in (image, reference))
    if not np.allclose(ours, theirs, rtol=SPACING_TOLERANCE):
        return [problem("another voxel size", in_mm(theirs), in_mm(ours))]
    axes, wanted = (nib.aff2axcodes(x.affine) for x in (image, reference))
    if axes != wanted:
        return [problem("another orientation", "".join(wanted), "".join(axes))]
    corners = np.array([*itertools.product(*((0, size - 1) for size in image.shape))])
    apart = nib.affines.apply_affine(image.affine, corners) - nib.affines.apply_affine(reference.affine, corners)
    distance = float(np.linalg.norm(apart, axis=1).max() / theirs.min())  # voxels
    if distance > SAME_GRID:
        severity = "E" if distance > OTHER_GRID else "W"
        return [problem("another affine", "the same affine", f"up to {distance:.2g} voxels apart", severity)]
    return []


def scan_warnings(image: nib.Nifti1Image, file: object) -> list[Problem]:
    """What is odd about one scan of `read_scan`, as warnings: `grid_warnings` and `voxel_warnings`; `file` names it."""
    return [*grid_warnings(image, file), *voxel_warnings(image, file)]


def voxel_warnings(image: nib.Nifti1Image, file: object) -> list[Problem]:
    """What is odd about the intensities of a scan, as warnings: some voxels so far beyond all others."""
    found: list[Problem] = []
    if (far := _far_voxels(np.asanyarray(image.dataobj))) is not None:
        hint = "correct these voxels: normalisation leaves little contrast beside them"
        _warner(found, file)(
            "Some voxels are far beyond all others.", f"at most about {far[0]:.4g}", f"up to {far[1]:.4g}", hint
        )
    return found


def grid_warnings(image: nib.Nifti1Image, file: object) -> list[Problem]:
    """What is odd about the grid of a scan, as warnings; its voxels are not looked at.

    Sform and qform that disagree, no codes, a unit other than mm, voxel sizes that differ from the affine's, shear,
    thick slices, few voxels.
    """
    found: list[Problem] = []
    header = image.header
    sizes = nib.affines.voxel_sizes(image.affine)
    warn = _warner(found, file)
    if isinstance(header, nib.Nifti1Header):
        sform, sform_code = header.get_sform(coded=True)
        qform, qform_code = _qform(header)
        if qform is None:
            warn("The qform is not a rotation; it is not used.", None, None, "the sform is used")
        elif not sform_code and not qform_code:
            warn(
                "The scan does not say where it lies in space.",
                "a sform or qform code above 0",
                "both 0",
                "left and right cannot be told; export it again from its source",
            )
        elif sform_code and qform_code and sform is not None:
            apart = np.abs(sform - qform).max()
            if apart > 1e-3 * sizes.min():
                hint = "the sform is used"
                warn("Sform and qform disagree.", "the same", f"up to {apart:.3g} mm apart", hint)
        pixdim = np.array(header["pixdim"].tolist()[1:4])
        if not np.allclose(pixdim, sizes, rtol=SPACING_TOLERANCE):
            warn(
                "The voxel size of the header is not that of the affine.",
                in_mm(sizes),
                in_mm(pixdim),
                "the affine's is used",
            )
        unit = int(header["xyzt_units"]) & 7  # nibabel's own reader fails on codes that NIfTI does not define
        if unit not in (0, MILLIMETRES):
            found_unit = UNITS.get(unit, f"the unknown unit code {unit}")
            warn("The unit of the scan is not mm.", "mm", found_unit, "the affine is taken as mm")
    cosines = image.affine[:3, :3] / sizes
    shear = np.abs(cosines.T @ cosines - np.eye(3)).max()
    if shear > 1e-3:
        warn("The affine is sheared.", "orthogonal axes", f"a cosine of {shear:.3g}", "resampling ignores the shear")
    if sizes.max() / sizes.min() > THICK_SLICES:
        warn("The slices are thick.", f"voxels at most {THICK_SLICES:g} times as long as wide", in_mm(sizes), None)
    if min(image.shape) < FEW_VOXELS:
        warn("The scan is small.", f"at least {FEW_VOXELS} voxels along each axis", image.shape, None)
    return found


def _far_voxels(array: np.ndarray) -> tuple[float, float] | None:
    """The usual largest magnitude of a scan and the largest, if that is more than `FAR_INTENSITY` times as large."""
    part = np.abs(array[:: max(1, array.shape[0] // 24), :: max(1, array.shape[1] // 24)])
    usual = float(np.percentile(part[part > 0], 99)) if part.any() else 0.0
    largest = max(float(array.max()), -float(array.min()))
    return (usual, largest) if largest > FAR_INTENSITY * usual > 0 else None


def voxel_volume(affine: np.ndarray) -> float:
    """mm3 of a voxel of an `affine` (4, 4) or its part (3, 3): |det|, on a sheared grid less than the sizes' product.

    Without the determinant's last digits, so that a smallest size of so many voxels is met by so many.
    """
    return round(float(abs(np.linalg.det(np.asarray(affine, np.float64)[:3, :3]))), 9)


def is_far(spacing: Sequence[float], wanted: Sequence[float] | None) -> bool:
    """Whether voxels of `spacing` mm are far from those of `wanted` mm that a model works on (None: never)."""
    if wanted is None:
        return False
    times = np.array(spacing) / np.array(wanted)
    return bool(max(times.max(), 1 / times.min()) > FAR_SPACING)


def in_mm(sizes: Iterable[float]) -> str:
    """Voxel sizes as text, in the order in which they are given: x, y, z, as files and other programs have it."""
    return " x ".join(f"{size:g}" for size in sizes) + " mm"


def bounding_box(mask: np.ndarray) -> tuple[slice, slice, slice] | None:
    """The tight box around the voxels that are set in a 3-D mask; None if there are none."""
    rows = np.any(mask, axis=2)
    used = [np.flatnonzero(line) for line in (rows.any(1), rows.any(0), np.any(mask, axis=(0, 1)))]
    if not used[0].size:
        return None
    d, h, w = (slice(int(indices[0]), int(indices[-1]) + 1) for indices in used)
    return d, h, w


def _warner(found: list[Problem], file: object) -> Callable[[str, object, object, str | None], None]:
    def warn(what: str, expected: object, there: object, hint: str | None) -> None:
        wanted, is_there = (None if value is None else str(value) for value in (expected, there))
        found.append(Problem(what, None if file is None else str(file), wanted, is_there, hint, "W"))

    return warn


def _qform(header: nib.Nifti1Header) -> tuple[np.ndarray | None, int]:
    try:
        with np.errstate(all="ignore"):
            qform = header.get_qform()
    except (ValueError, nib.spatialimages.HeaderDataError):  # quaternions longer than 1
        return None, 0
    return (qform if np.isfinite(qform).all() else None), int(header["qform_code"])
