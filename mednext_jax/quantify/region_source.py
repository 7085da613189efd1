"""Where the regions of a scan come from: a map of its own, a folder of maps, or the atlas brought onto it."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

import nibabel as nib
import numpy as np

from mednext_jax.errors import InputError
from mednext_jax.io.nifti import read_labels, read_scan
from mednext_jax.io.nifti_names import few, files_in
from mednext_jax.io.voxels import Source
from mednext_jax.measure.freesurfer import FREESURFER, is_freesurfer
from mednext_jax.measure.parcellation import Parcellation, Structure
from mednext_jax.quantify.atlas import register_atlas
from mednext_jax.quantify.lookup import read_lookup
from mednext_jax.quantify.one_scan import Quantified

ATLAS = "atlas"
# Maps as FreeSurfer and FastSurfer leave them below SUBJECT/mri, the one that says most first.
_RECON = ("wmparc.mgz", "wmparc.DKTatlas.mapped.mgz", "aparc+aseg.mgz", "aparc.DKTatlas+aseg.mapped.mgz", "aseg.mgz")
_ENDINGS = ("", "_dseg", "_synthseg", "_aparc+aseg", "_wmparc", "_regions")
_TABLES = ("regions.json", "dseg.tsv", "lookup.tsv", "lookup.json", "FreeSurferColorLUT.txt")
# A map of a whole brain that labels less than this share of the PVS voxels, or whose brain overlaps less with that of
# a brain-extracted scan (Dice), is another subject's.
LEAST_NAMED, LEAST_OVERLAP = 0.5, 0.8
# A map of FreeSurfer's leaves out fluid that a generous brain mask holds; two people in one pose reach 0.7 to 0.87.
USUAL_OVERLAP = 0.9
_FEW_VOXELS = 50  # of a mask: too few to judge by
_EXTRACTED = 0.4  # share of zeros in a scan from which they are taken to lie around an extracted brain


@dataclasses.dataclass(frozen=True)
class SubjectRegions:
    """The parcellation of one scan and what is to be said of it (also in the logs of a cohort).

    overlap: Dice of the scan's brain and that of the map or the atlas; None where it was not to be told.
    """

    brain: Parcellation
    notes: tuple[str, ...] = ()
    overlap: float | None = None

    def told_in(self, measured: Quantified) -> Quantified:
        """The measures with the notes as warnings, and the overlap in each row of the regions."""
        about = {} if self.overlap is None else {"regions_overlap": self.overlap}
        rows = [row | about for row in measured.regions]
        return dataclasses.replace(measured, regions=rows, warnings=(*measured.warnings, *self.notes))


# Of a case: its name, its mask, its scan (None if not at hand).
RegionSource = Callable[[str, nib.Nifti1Image, Source | None], SubjectRegions]


def open_regions(source: Source | None, names: str | Path | None = None, *, single: bool = True) -> RegionSource | None:
    """What gives each case its regions; None for none.

    source: None; "atlas"; a map (file or image), if there is a `single` case; or a folder with CASE.nii.gz (also _dseg,
    _synthseg, .mgz) or CASE/mri/wmparc.mgz, aparc+aseg.mgz, as FreeSurfer leaves them. names: "freesurfer" or a lookup
    table (`read_lookup`); by default regions.json, dseg.tsv or lookup.tsv beside the maps, else FreeSurfer's numbers if
    the values look like them. Raises InputError if nothing is there,
    or for `names` that no map takes.
    """
    if names is not None and (source is None or (isinstance(source, str) and source == ATLAS)):
        what, hint = "The names of regions are for region maps.", "give the maps, or leave --region-names out"
        raise InputError(what, expected="--regions MAPS", found="no maps" if source is None else ATLAS, hint=hint)
    if source is None:
        return None
    if isinstance(source, str) and source == ATLAS:
        return _atlas
    if not isinstance(source, str | Path):
        table = None if names is None else read_lookup(names)
        return lambda case, mask, scan: _read(source, table, mask, scan)
    path = Path(source)
    if path.is_dir():
        return functools.partial(_of_folder, path, _table_in(path) if names is None else read_lookup(names))
    if not path.exists():
        raise InputError(
            "There are no region maps.",
            file=path,
            expected=f"a folder of maps, one map, or the word {ATLAS}",
            found="nothing",
        )
    if not single:
        hint = f"give a folder with one map per case, or --regions {ATLAS}"
        raise InputError("One region map is given for several scans.", file=path, hint=hint)
    beside = _table_in(path.parent) if names is None else read_lookup(names)
    return lambda case, mask, scan: _read(path, beside, mask, scan)


def _atlas(case: str, mask: nib.Nifti1Image, scan: Source | None) -> SubjectRegions:
    brain, overlap = register_atlas(case, scan, mask)
    return SubjectRegions(brain, (f"{case}: atlas registered, overlap of the brains {overlap:.3f} (Dice)",), overlap)


def _table_in(folder: Path) -> Mapping[int, Structure] | None:
    found = [folder / name for name in _TABLES if (folder / name).is_file()]
    return read_lookup(found[0]) if found else None


def _of_folder(
    folder: Path, table: Mapping[int, Structure] | None, case: str, mask: nib.Nifti1Image, scan: Source | None
) -> SubjectRegions:
    subjects = dict.fromkeys((case, case.split("_")[0]))
    for path in (folder / subject / "mri" / name for subject in subjects for name in _RECON):
        if path.is_file():
            return _read(path, table or FREESURFER, mask, scan)
    wanted = {f"{case}{ending}{kind}".lower() for ending in _ENDINGS for kind in (".nii.gz", ".nii", ".mgz")}
    found = [path for path in files_in(folder) if path.name.lower() in wanted]
    if len(found) != 1:
        raise InputError(
            "A case has several region maps." if found else "A case has no region map.",
            file=folder,
            expected=f"{case}.nii.gz, {case}_dseg.nii.gz or {case}/mri/aparc+aseg.mgz",
            found=few([path.name for path in found]) or "nothing",
            hint="keep one of them" if found else "add the map, or leave --regions out",
        )
    return _read(found[0], table, mask, scan)


def _read(
    source: Source, table: Mapping[int, Structure] | None, mask: nib.Nifti1Image, scan: Source | None
) -> SubjectRegions:
    image = read_labels(source)
    file = str(source) if isinstance(source, str | Path) else image.get_filename() or "the region map"
    values = np.asanyarray(image.dataobj)
    standard = is_freesurfer(values)
    if table is None:
        if not standard:
            unnamed = _unnamed(values, FREESURFER)
            raise InputError(
                "The values of the region map have no names.",
                file=file,
                expected="FreeSurfer's numbers, white matter (2, 41) among them and hardly any other, or a lookup "
                "table beside the map: regions.json, dseg.tsv, lookup.tsv",
                found=_present(values) + (f"; not FreeSurfer's: {unnamed}" if unnamed else ""),
                hint="name one: --region-names TABLE, or --region-names freesurfer",
            )
        table = FREESURFER
    unnamed = _unnamed(values, table)
    notes = (f"{file}: values without a name count as no region: {unnamed}",) if unnamed else ()
    brain = Parcellation.of(values, image.affine, table)
    if len(brain.structures) == 1:
        raise InputError(
            "The region map has none of the values that the lookup table names.",
            file=file,
            expected=few([f"{value} ({s.name})" for value, s in sorted(table.items())]),
            found=_present(values),
            hint="name the right table: --region-names TABLE",
        )
    _require_same_space(brain, mask, file)
    whole = table is FREESURFER and standard
    overlap = _require_same_brain(brain, mask, scan, file, whole)
    if overlap is not None and overlap < USUAL_OVERLAP:
        notes = (*notes, f"{file}: its brain overlaps that of the scan by {overlap:.2f} (Dice): is it this subject's?")
    return SubjectRegions(brain.refined() if whole else brain, notes, overlap)


def _present(values: np.ndarray) -> str:
    """The values of a label map, for a message."""
    return few([str(v) for v in np.unique(values) if v]) or "0 in every voxel"


def _unnamed(values: np.ndarray, table: Mapping[int, Structure]) -> str:
    """Values that `table` does not name, with their voxels; empty if it names all."""
    counts = np.bincount(values.ravel())
    return few([f"{v} ({counts[v]} voxels)" for v in np.flatnonzero(counts) if v and int(v) not in table])


def _require_same_space(brain: Parcellation, mask: nib.Nifti1Image, file: str) -> None:
    """Raise InputError if the boxes of map and scan do not overlap in space by half of the smaller."""
    boxes = []
    for shape, affine in ((brain.codes.shape, brain.affine), (mask.shape, mask.affine)):
        corners = np.array([*itertools.product(*((-0.5, size - 0.5) for size in shape))])
        points = nib.affines.apply_affine(affine, corners)
        boxes.append((points.min(0), points.max(0)))
    (low, high), (other_low, other_high) = boxes
    shared = np.prod(np.maximum(np.minimum(high, other_high) - np.maximum(low, other_low), 0))
    smaller = min(np.prod(high - low), np.prod(other_high - other_low))
    if shared < 0.5 * smaller:
        raise InputError(
            "The region map lies elsewhere in space than its scan.",
            file=file,
            expected=f"a map within {_box(other_low, other_high)}",
            found=_box(low, high),
            hint="is it another subject's, or in a template's space? Bring it into the scan's space first",
        )


def _require_same_brain(
    brain: Parcellation, mask: nib.Nifti1Image, scan: Source | None, file: str, whole: bool
) -> float | None:
    """The overlap (Dice) of the map's brain and the scan's, None if the scan's was not extracted or is not at hand.

    Raises InputError if the map's brain is not where the PVS and the brain of the scan are.
    """
    hint = "is it another subject's, or in another space than the scan?"
    labelled = brain.codes > 0
    inside = np.argwhere(np.asanyarray(mask.dataobj) > 0)
    if whole and len(inside) >= _FEW_VOXELS:
        share = float((brain.codes_at(nib.affines.apply_affine(mask.affine, inside)) > 0).mean())
        if share < LEAST_NAMED:
            raise InputError(
                "The region map does not lie where the PVS are.",
                file=file,
                expected=f"labels at {LEAST_NAMED:.0%} of the mask's voxels or more",
                found=f"{share:.0%}",
                hint=hint,
            )
    if scan is None or not whole:
        return None
    image = read_scan(scan)
    voxels = np.asanyarray(image.dataobj)[::2, ::2, ::2] != 0
    if voxels.mean() > 1 - _EXTRACTED:
        return None
    points = nib.affines.apply_affine(image.affine, 2 * np.argwhere(np.ones_like(voxels)))
    there = brain.codes_at(points) > 0
    overlap = 2 * float((there & voxels.ravel()).sum()) / max(int(there.sum() + voxels.sum()), 1)
    if labelled.any() and overlap < LEAST_OVERLAP:
        raise InputError(
            "The brain of the region map is not that of the scan.",
            file=file,
            expected=f"an overlap (Dice) of {LEAST_OVERLAP:g} or more with what is not 0 in the scan",
            found=f"{overlap:.2f}",
            hint=hint,
        )
    return overlap


def _box(low: np.ndarray, high: np.ndarray) -> str:
    return " x ".join(f"{a:.0f} to {b:.0f}" for a, b in zip(low, high, strict=True)) + " mm"
