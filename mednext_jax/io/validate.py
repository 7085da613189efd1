"""A whole data set checked before anything is made of it: every problem of every file, reported together.

Follows nnU-Net's verify_dataset_integrity and adds what it lets pass: infinite values, constant images, labels that
are not integers, affines that differ, the same image under two names, one scan turned another way than the others.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import hashlib
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from mednext_jax.errors import InputError, Problem
from mednext_jax.io.brain_masks import brain_problems
from mednext_jax.io.geometry import bounding_box, grid_problems, in_mm, scan_warnings
from mednext_jax.io.nifti import grid_of, read_labels, read_scan
from mednext_jax.io.raw_dataset import RawCase, RawDataset

# nnU-Net warns of training data outside this range of the usual voxel size.
SPACING_RANGE = 0.25


@dataclasses.dataclass(frozen=True)
class CaseReport:
    """What checking one case found. Fields after `problems` are None or empty if its files cannot be used."""

    id: str
    problems: tuple[Problem, ...]
    sources: dict[str, str] = dataclasses.field(default_factory=dict)  # file -> sha256
    voxels_hash: str | None = None
    axes: str | None = None  # such as "RAS"
    spacing: tuple[float, ...] = ()  # mm (d, h, w)
    voxel_sizes: tuple[float, ...] = ()  # mm (x, y, z), as stored
    box_shape: tuple[int, ...] = ()  # of the region that is not zero (d, h, w)
    relative_size: float = 0.0  # voxels of that box over all
    zero_fraction: float = 0.0
    negative: bool = False
    values: tuple[int, ...] = ()  # of the label map


def validate(
    dataset: RawDataset, *, threads: int | None = None, progress: Callable[[], object] = lambda: None
) -> list[CaseReport]:
    """Check every file of a data set; returns one report per case, sorted by id, and all warnings in them.

    `threads`: cases read at a time (each needs a few times the memory of a scan); `progress` is called after each.
    Raises one InputError with all errors and warnings if there is any error.
    """
    with concurrent.futures.ThreadPoolExecutor(threads or min(4, os.cpu_count() or 1)) as pool:
        futures = [pool.submit(check_case, case, dataset) for case in dataset.cases]
        for _ in concurrent.futures.as_completed(futures):
            progress()
        reports = [future.result() for future in futures]
    across = across_cases(reports, dataset)
    problems = [
        *_not_utf8(dataset.cases),
        *dataset.problems,
        *(p for report in reports for p in report.problems),
        *across,
    ]
    if not dataset.cases:
        problems.append(Problem("The data set has no complete case.", str(dataset.root)))
    if any(problem.severity == "E" for problem in problems):
        raise InputError.of(sorted(problems, key=lambda problem: problem.severity))
    if reports:
        reports[0] = dataclasses.replace(reports[0], problems=(*dataset.problems, *reports[0].problems, *across))
    return reports


def _not_utf8(cases: Sequence[RawCase]) -> list[Problem]:
    """Names that a prepared data set, which may lie in a bucket, cannot have."""
    what, hint = "The name of a case is not UTF-8.", "rename its files"
    named = ((case, case.id.encode("utf-8", "ignore").decode()) for case in cases)
    return [Problem(what, str(case.images[0]), hint=hint) for case, text in named if text != case.id]


def check_case(case: RawCase, dataset: RawDataset) -> CaseReport:
    """Check the files of one case against each other and against the labels of the data set."""
    problems: list[Problem] = []
    images: list[nib.Nifti1Image] = []
    for path in case.images:
        image = _try(read_scan, path, problems)
        if image is not None:
            images.append(image)
            problems += scan_warnings(image, path)
    label = _try(read_labels, case.label, problems)
    if len(images) != len(case.images) or label is None:
        return CaseReport(case.id, tuple(problems))
    first = images[0]
    for image, path in zip(images[1:], case.images[1:], strict=True):
        problems += grid_problems(image, first, "A channel", path, case.images[0])
    problems += grid_problems(label, first, "The label map", case.label, case.images[0])
    if case.regions is not None:
        regions = _try(read_labels, case.regions, problems)
        if regions is not None:
            problems += grid_problems(regions, first, "The region map", case.regions, case.images[0])
    arrays = [np.asanyarray(image.dataobj) for image in images]
    values = _check_values(np.asanyarray(label.dataobj), case, dataset, problems)
    same_shape = all(array.shape == arrays[0].shape for array in arrays)
    zero = np.logical_and.reduce([array == 0 for array in arrays]) if same_shape else arrays[0] == 0
    if case.brain is not None:
        zero = zero | ~_check_brain(case, first, label, problems)
    files = [path for path in (*case.images, case.label, case.regions, case.brain) if path is not None]
    grid = grid_of(first)
    box = bounding_box(grid.to_network(~zero)) or (slice(0, 0),) * 3
    box_shape = tuple(part.stop - part.start for part in box)
    return CaseReport(
        case.id,
        tuple(problems),
        sources={str(path): file_hash(path) for path in files},
        voxels_hash=hashlib.blake2b(b"".join(_digest(array) for array in arrays)).hexdigest(),
        axes="".join(nib.aff2axcodes(first.affine)),
        spacing=grid.spacing,
        voxel_sizes=tuple(float(size) for size in nib.affines.voxel_sizes(first.affine)),
        box_shape=box_shape,
        relative_size=math.prod(box_shape) / zero.size,
        zero_fraction=float(zero.mean()),
        negative=bool(min(array.min() for array in arrays) < 0),
        values=values,
    )


def across_cases(reports: Sequence[CaseReport], dataset: RawDataset) -> list[Problem]:
    """Warnings that only all cases together show: duplicates, outliers, labels that never occur."""
    problems = []
    usable = [report for report in reports if report.voxels_hash is not None]
    by_hash = collections.defaultdict(list)
    for report in usable:
        by_hash[report.voxels_hash].append(report.id)
    for names in by_hash.values():
        if len(names) > 1:
            what, hint = "The same image is there under several names.", "keep one of them"
            problems.append(Problem(what, str(dataset.root), found=", ".join(names), hint=hint))
    if not usable:
        return problems

    def outliers(what: str, odd: Sequence[CaseReport], expected: str, found: Callable[[CaseReport], str]) -> None:
        listed = ", ".join(f"{report.id} ({found(report)})" for report in odd[:5])
        more = f" and {len(odd) - 5} more" if len(odd) > 5 else ""
        if odd:
            hint = "look at these scans; nothing is wrong if they are meant to differ"
            problems.append(Problem(what, str(dataset.root), expected, listed + more, hint, "W"))

    usual = collections.Counter(report.axes for report in usable).most_common(1)[0][0]
    odd = [report for report in usable if report.axes != usual]
    outliers("Some scans are stored in another orientation.", odd, f"{usual}, as most", lambda r: str(r.axes))

    sizes = np.array([sorted(report.spacing) for report in usable])  # (cases, 3), whatever the orientation
    median = np.median(sizes, axis=0)
    far = (np.abs(sizes / median - 1) > SPACING_RANGE).any(axis=1)
    odd = [report for report, is_far in zip(usable, far, strict=True) if is_far]
    outliers(
        "Some scans have an unusual voxel size.",
        odd,
        f"about {in_mm(median)} in any order",
        lambda r: in_mm(r.voxel_sizes),
    )

    stripped = [report for report in usable if report.zero_fraction > 0.5]
    whole = [report for report in usable if report.zero_fraction < 0.05]
    if stripped and whole:
        fewer = min(stripped, whole, key=len)
        what = "Some scans have a background of zeros (skull-stripped), others do not."
        outliers(what, fewer, "the same in every scan", lambda r: f"{r.zero_fraction:.0%} zeros")

    odd = [report for report in usable if report.negative]
    if len(odd) < len(usable) / 2:
        outliers("Some scans have negative values.", odd, "as most", lambda r: "already normalised?")

    seen = {value for report in usable for value in report.values}
    absent = sorted(dataset.label_values - seen - {0})
    if not seen - {0, dataset.ignore_label}:
        hint = "check labelsTr and `labels` in dataset.json"
        problems.append(Problem("No label map has any label.", str(dataset.root), hint=hint))
    elif absent:
        what = "Some labels occur in no label map."
        problems.append(Problem(what, str(dataset.root), found=str(absent)[1:-1], severity="W"))
    return problems


def file_hash(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_values(array: np.ndarray, case: RawCase, dataset: RawDataset, problems: list[Problem]) -> tuple[int, ...]:
    """The values of a label map; unknown ones and an empty map are reported."""
    values, counts = np.unique(array, return_counts=True)
    known = dataset.label_values
    unknown = [(int(v), int(n)) for v, n in zip(values, counts, strict=True) if int(v) not in known]
    if unknown:
        hint = "correct the label map, or `labels` in dataset.json"
        if {v for v, _ in unknown} == {255}:
            hint = "a mask of 0 and 255: divide it by 255"
        listed = ", ".join(f"{v} ({n} voxels)" for v, n in unknown[:8])
        what = "The label map has unknown values."
        problems.append(Problem(what, str(case.label), f"{sorted(known)}", listed, hint))
    elif not set(values.tolist()) - {0, dataset.ignore_label}:
        what, hint = "The label map is empty.", "nothing is wrong if this scan has no lesion"
        problems.append(Problem(what, str(case.label), hint=hint, severity="W"))
    return tuple(int(value) for value in values)


def _check_brain(case: RawCase, scan: nib.Nifti1Image, label: nib.Nifti1Image, problems: list[Problem]) -> np.ndarray:
    """The brain mask (x, y, z) of a case; all of the scan if it cannot be used."""
    assert case.brain is not None
    everywhere = np.ones(scan.shape, bool)
    image = _try(read_labels, case.brain, problems)
    if image is None:
        return everywhere
    found = brain_problems(image, scan, case.brain, case.images[0])
    brain = np.asanyarray(image.dataobj) != 0
    problems += found
    if any(problem.severity == "E" for problem in found):
        return everywhere
    if label.shape == brain.shape and (lost := int(((np.asanyarray(label.dataobj) > 0) & ~brain).sum())):
        what, hint = "Labelled voxels lie outside the brain mask.", "look whether the mask cuts off brain"
        problems.append(Problem(what, str(case.brain), found=f"{lost} voxels", hint=hint, severity="W"))
    return brain


def _try(read: Callable[[Path], nib.Nifti1Image], path: Path, problems: list[Problem]) -> nib.Nifti1Image | None:
    try:
        return read(path)
    except InputError as error:
        problems += error.problems
        return None


def _digest(array: np.ndarray) -> bytes:
    return hashlib.blake2b(array.ravel(order="K").data).digest() + str(array.shape).encode()
