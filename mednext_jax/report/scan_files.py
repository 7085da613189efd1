"""The images of one scan, read and checked, and what is to be said of them before anyone trusts a number."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from scipy import ndimage

from mednext_jax.errors import Problem
from mednext_jax.io.geometry import scan_warnings
from mednext_jax.io.nifti import grid_of, read_labels, read_scan, spacing_warnings
from mednext_jax.quantify.region_source import USUAL_OVERLAP
from mednext_jax.quantify.tables import TableFiles
from mednext_jax.report.measured import NARROW, REMARKS, Measured, TableRow, number, numbers, remarks
from mednext_jax.report.on_grid import read_probability, read_uncertainty, same_grid
from mednext_jax.report.predicted import PredictedScan
from mednext_jax.report.view_volume import MAP_TOPS

SMALL_VOXEL = 1.0 + 1e-3  # mm; PVS are 0.5 to 3 mm wide
MANY_SINGLE, MANY_OUTSIDE = 0.4, 0.05
EXTRACTED = 0.3  # of a scan's voxels are exactly 0 where the brain was extracted
EDGE_MM = 2.0
# By the words of a remark.
LOOK = {
    REMARKS["touches_csf_or_cortex"]: "likely sulci; look at them before the count is used",
    REMARKS["possible_lacune"]: "wider than 3 mm and ovoid; look at them before the count is used",
}
MANY_AT_EDGE = 0.3


@dataclasses.dataclass(frozen=True)
class ScanFiles:
    """Images on one grid (x, y, z); scan and probability are None where they were not found. problems: warnings.

    maps: of `predict --uncertainty`, by the name of their column.
    """

    mask: nib.Nifti1Image
    scan: nib.Nifti1Image | None
    probability: nib.Nifti1Image | None
    problems: list[Problem]
    maps: Mapping[str, nib.Nifti1Image] = dataclasses.field(default_factory=dict)

    @property
    def described(self) -> str:
        """The grid in words."""
        shape = " × ".join(map(str, self.mask.shape))
        size = " × ".join(f"{mm:.3g}" for mm in voxel_sizes(self.mask.affine))
        return f"{shape} voxels of {size} mm"

    @property
    def facts(self) -> list[tuple[str, object]]:
        """What the page says of the images."""
        axes = "".join(nib.aff2axcodes(self.mask.affine))
        rows: list[tuple[str, object]] = [("Grid", self.described), ("Axes as stored", f"{axes} (towards)")]
        if self.scan is not None:
            values = np.asanyarray(self.scan.dataobj)
            rows.append(("Intensities", f"{values.min():g} to {values.max():g}"))
        return rows


def read_scan_files(scan: PredictedScan) -> ScanFiles:
    """Read mask, probability and scan; InputError for one that is damaged or lies on another grid than the mask.

    A scan or a probability that is not there is a warning.
    """
    problems: list[Problem] = []
    mask = read_labels(scan.mask)
    probability = None
    if scan.probability.exists():
        probability, problems = read_probability(scan.probability, mask, scan.mask)
    else:
        problems.append(_warning("The probability map was not found.", expected=scan.probability.name))
    image = None
    if scan.image is not None:
        image = read_scan(scan.image)
        problems += same_grid(image, mask, "A scan", scan.image, scan.mask)
        problems += scan_warnings(image, scan.image)
        problems += _far_from_models(image, scan)
    else:
        hint = "say where the scans are: mednext-jax report OUT --scans FOLDER"
        problems.append(_warning("The scan was not found; the pictures show the probability alone.", hint=hint))
    problems += _notices(scan)
    maps = {name: read_uncertainty(path, mask, scan.mask) for name, path in uncertainty_maps(scan).items()}
    return ScanFiles(mask, image, probability, problems, maps)


def uncertainty_maps(scan: PredictedScan) -> dict[str, Path]:
    """The maps of `predict --uncertainty` beside the scan's mask, by the name of their column."""
    found: dict[str, Path] = {}
    for files in (TableFiles.plain(scan.case), TableFiles.bids(Path(), scan.case)):
        places = {name: scan.mask.parent / files.map_of(name) for name in MAP_TOPS}
        found |= {name: path for name, path in places.items() if path.is_file()}
    return found


def _notices(scan: PredictedScan) -> list[Problem]:
    """What the models of the run want everyone to be told."""
    models = scan.record.get("models")
    told = [model.get("notice") for model in models if isinstance(model, dict)] if isinstance(models, list) else []
    return [_warning(f"Of the model: {notice}.") for notice in dict.fromkeys(told) if isinstance(notice, str)]


def _far_from_models(image: nib.Nifti1Image, scan: PredictedScan) -> list[Problem]:
    """A warning if the scan's voxels are far from those of the models that the run's record names."""
    models = scan.record.get("models")
    for model in models if isinstance(models, list) else ():
        spacing = model.get("spacing") if isinstance(model, dict) else None
        usable = (
            isinstance(spacing, list)
            and len(spacing) == 3
            and all(isinstance(s, int | float) and s > 0 for s in spacing)
        )
        if usable and (found := spacing_warnings(grid_of(image, model.get("orientation")), spacing, scan.image)):
            return found
    return []


def findings(files: ScanFiles, measured: Measured) -> list[Problem]:
    """What the numbers themselves make suspicious, as warnings."""
    found = []
    sizes = voxel_sizes(files.mask.affine)
    labels = np.asanyarray(measured.labels.dataobj)
    sizes_of = np.bincount(labels.ravel())[1:]
    count = int((sizes_of > 0).sum())
    if sizes.max() > SMALL_VOXEL:
        size = " × ".join(f"{mm:.3g}" for mm in sizes)
        what = "The voxels are larger than many PVS are wide: counts and volumes are those that such voxels can show."
        found.append(_warning(what, expected="at most 1 mm", found=f"{size} mm"))
    overlap = number(measured.whole, "regions_overlap")
    if overlap is not None and overlap < USUAL_OVERLAP:
        what = f"The brain of the region map overlaps that of the scan by {overlap:.2f} (Dice)."
        found.append(_warning(what, expected=f"{USUAL_OVERLAP:g} or more", hint="is the map this subject's?"))
    if count == 0:
        found.append(_warning("No PVS was found in this scan.", hint="look at the probability, or lower --threshold"))
        return found
    if (single := float((sizes_of == 1).sum() / count)) > MANY_SINGLE:
        found.append(_warning(f"{single:.0%} of the clusters are one voxel, which is often noise."))
    found += _places(files, labels, count)
    told: dict[str, int] = {}
    for row in measured.counted:
        for words in remarks(row):
            told[words] = told.get(words, 0) + 1
    told.pop(NARROW, None)
    found += _below_resolution(measured)
    found += [
        _warning(f"{n} of {len(measured.counted)} PVS: {words}.", hint=LOOK.get(words))
        for words, n in sorted(told.items())
    ]
    likely = numbers(measured.counted, "probability_mean")
    if likely and float(np.median(likely)) < 0.6:
        found.append(_warning("The model is unsure of half of the PVS: their mean probability is below 0.6."))
    found += _outside_of_members(measured.whole)
    if measured.counted_here:
        hint = "run mednext-jax quantify to measure clusters by region"
        found.append(_warning("There were no tables beside the mask; this report counted the clusters.", hint=hint))
    return found


def _below_resolution(measured: Measured) -> list[Problem]:
    narrow = sum(NARROW in remarks(row) for row in measured.counted)
    if not narrow:
        return []
    hint = "compare counts of thin PVS only between scans of one voxel size"
    what = (
        f"{narrow} of {len(measured.counted)} PVS are {NARROW}: the voxels do not resolve them. Their width is the "
        "grid's, and others as thin are missed or break into pieces."
    )
    return [_warning(what, hint=hint)]


def _outside_of_members(whole: TableRow) -> list[Problem]:
    """A warning if the count is not within what models and mirrors find one by one."""
    count, low, high = (number(whole, f"count{end}") for end in ("", "_low", "_high"))
    if count is None or low is None or high is None or low <= count <= high:
        return []
    what = "The count is not within the interval of what models and mirrors find one by one: they differ in where."
    hint = "look at the map of their standard deviation, and use the count with care"
    return [_warning(what, f"{low:.1f} to {high:.1f}", f"{count:g}", hint)]


def _places(files: ScanFiles, labels: np.ndarray, count: int) -> list[Problem]:
    """Clusters where the scan is empty, or at the edge of an extracted brain."""
    if files.scan is None:
        return []
    empty = np.asanyarray(files.scan.dataobj) == 0
    if empty.mean() < EXTRACTED:
        return []
    found = []
    outside = _with_half(labels, empty)
    if outside > MANY_OUTSIDE * count or outside > 4:
        found.append(_warning(f"{outside} of {count} clusters lie where the scan is empty, outside of the brain."))
    sizes = voxel_sizes(files.scan.affine)
    inner = ndimage.binary_fill_holes(~empty)
    for _ in range(max(1, round(EDGE_MM / float(sizes.mean())))):
        inner = ndimage.binary_erosion(inner)
    at_edge = _with_half(labels, ~inner) - outside
    if at_edge > MANY_AT_EDGE * count:
        what = f"{at_edge} of {count} clusters lie within about {EDGE_MM:g} mm of the brain's edge."
        found.append(_warning(what, hint="likely sulci or vessels; look at them before the count is used"))
    return found


def _with_half(labels: np.ndarray, where: np.ndarray) -> int:
    """How many clusters have more than half of their voxels `where`."""
    inside = labels > 0
    owner = labels[inside]
    there = np.bincount(owner, where[inside])
    return int((there > 0.5 * np.maximum(np.bincount(owner), 1)).sum())


def _warning(what: str, expected: str | None = None, found: str | None = None, hint: str | None = None) -> Problem:
    return Problem(what, None, expected, found, hint, "W")
