"""Folders of predicted and reference masks: pair the files, score each case, write the summary."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from mednext_jax.errors import InputError, Problem, in_groups, shown
from mednext_jax.evaluate.case import Scores, evaluate_case
from mednext_jax.evaluate.cohort import by_region
from mednext_jax.evaluate.scores_file import write_scores
from mednext_jax.evaluate.table import terminal_table
from mednext_jax.io.absent import dangling_folders, refuse_no_folder
from mednext_jax.io.atomic import atomic_directory, refuse_existing
from mednext_jax.io.brain_masks import is_brain_mask
from mednext_jax.io.geometry import grid_problems
from mednext_jax.io.nifti import MAX_LABEL, read_labels
from mednext_jax.io.nifti_names import few, files_below, is_nifti_name, left_out, stem
from mednext_jax.io.nnunet_raw import read_ignore_label
from mednext_jax.measure.regions import RegionMaps

RULES = {
    "foreground": "every label above 0; voxels with the reference's ignore label count in neither mask",
    "clusters": "26-connected; any overlap (SHIVA-PVS): tp = reference clusters with a predicted voxel, "
    "fp = predicted clusters that touch no reference, fn = reference clusters without a predicted voxel; "
    "precision = tp / (tp + fp), recall = tp / (tp + fn), dice = 2 tp / (2 tp + fp + fn); "
    "tp_predicted = predicted clusters that touch a reference",
    "undefined": "0 / 0 is null (a case empty in both masks has no Dice) and left out of the means; n counts the rest",
    "regions": "voxel scores: voxels in the region; clusters, counts and volumes: by the region with most voxels",
}


def evaluate(
    predictions: str | Path,
    references: str | Path,
    out: str | Path,
    regions: str | Path | None = None,
    *,
    ignore_label: int | None = None,
) -> dict[str, Any]:
    """Score predicted masks against references and write `out`/summary.json and `out`/cases.csv; print a table.

    predictions, references: folders of label maps (searched with their subfolders), or one file each. Files are paired
    by case: the name without its ending, `_mask`, and BIDS entities that say what the map is. In a folder with names
    in `_mask`, other files (probabilities) are left out, and brain masks everywhere. Every prediction needs a
    reference; references without a prediction are listed, not scored. regions: a folder of region maps (`RegionMaps`).
    ignore_label: the value of the references where neither mask counts; by default that of the dataset.json in or
    beside the folder of references, if it names one.
    Returns the summary: {"regions": {"all": summarise(...), ...}, "cases": {case: evaluate_case(...)}, ...}.
    Raises InputError with all problems of all cases; then nothing is written.
    """
    refuse_existing(out)
    if ignore_label is not None and not 0 < ignore_label <= MAX_LABEL:
        what = "The ignore label is none that a reference can have besides the background."
        raise InputError(what, expected=f"1 to {MAX_LABEL}", found=ignore_label)
    predicted, reference = find_masks(predictions), find_masks(references)
    if Path(predictions).is_file() and Path(references).is_file():
        reference = dict(zip(predicted, reference.values(), strict=True))
    if ignore_label is None:
        ignore_label = read_ignore_label(references if Path(references).is_dir() else Path(references).parent)
    maps = None if regions is None else RegionMaps.open(regions)
    problems = [
        Problem(
            "A prediction has no reference.",
            file=str(path),
            expected=f"a label map of the case {case} in {references}",
            found=few(list(reference)),
            hint="name both files after the case",
        )
        for case, path in predicted.items()
        if case not in reference
    ]
    if problems:
        raise InputError.of(problems)

    cases: dict[str, dict[str, Scores]] = {}
    warnings: list[Problem] = []
    values: set[int] = set()  # of the references
    for case, path in predicted.items():
        try:
            cases[case], odd, there = _evaluate_files(case, path, reference[case], maps, ignore_label)
        except InputError as error:
            problems += error.problems
        else:
            warnings += odd
            values |= there
    if problems:
        raise InputError.of(problems)

    absent = sorted(set(reference) - set(predicted))
    if warnings:
        print(in_groups(warnings))
    print(f"{len(cases)} case{'s' * (len(cases) != 1)}, mean ± SD; clusters: 26-connected, any overlap; r: Pearson")
    print(terminal_table(by_region(list(cases.values()))))
    if ignore_label in values:
        print(f"voxels with the ignore label {ignore_label} in the reference are not counted")
    elif ignore_label is not None:
        print(f"no reference has a voxel with the ignore label {ignore_label}")
    if len(foreground := sorted(values - {0, ignore_label})) > 1:
        print(f"the labels {', '.join(map(str, foreground))} of the references count alike, as foreground")
    if absent:
        print(f"{len(absent)} references have no prediction and are not scored: {shown(few(absent))}")
    with atomic_directory(out) as folder:  # at the end: a full disk does not take the table
        return write_scores(folder, cases, references_without_prediction=absent, ignore_label=ignore_label, rules=RULES)


def find_masks(source: str | Path) -> dict[str, Path]:
    """Case -> label map, sorted, for a folder (with subfolders, links followed) or one file.

    Brain masks are left out, and a line is printed for images of other formats. Raises InputError if there is no label
    map, or several of one case.
    """
    source = Path(source)
    if not source.is_dir():
        if source.exists():  # what is no file is told when it is read
            return {case_of(source): source}
        refuse_no_folder(source, "There are no label maps.", expected="a folder or a NIfTI file")
    files = files_below(source)
    maps = [p for p in files if is_nifti_name(p) and not is_brain_mask(p)]
    maps = [p for p in maps if stem(p).endswith("_mask")] or maps
    others = [*left_out(files, source), *dangling_folders(files)]
    if not maps:
        raise InputError(
            "There are no label maps.",
            file=source,
            expected="a folder with CASE.nii.gz or CASE_mask.nii.gz",
            found=others[0].found if others else "a folder without NIfTI files other than brain masks",
            hint=others[0].hint if others else None,
        )
    if others:
        print(in_groups(others))
    cases: dict[str, Path] = {}
    problems = []
    for path in maps:
        other = cases.setdefault(case_of(path), path)
        if other != path:
            hint = "keep one of them, or name a folder with the label maps alone, such as labelsTr"
            problems.append(Problem("Two label maps are of one case.", str(path), found=str(other), hint=hint))
    if problems:
        raise InputError.of(problems)
    return cases


def case_of(path: Path) -> str:
    """The case of a label map: `sub-1_space-orig_label-PVS_mask.nii.gz`, `sub-1_mask.nii.gz` and `sub-1.nii` agree."""
    return re.sub(r"_(mask|dseg|(space|label|seg|desc)-[a-zA-Z0-9]+)(?=_|$)", "", stem(path))


def _evaluate_files(
    case: str, prediction: Path, reference: Path, maps: RegionMaps | None, ignore_label: int | None
) -> tuple[dict[str, Scores], list[Problem], set[int]]:
    """The scores of a case, what is odd about its files, and the values of its reference."""
    predicted, true = read_labels(prediction), read_labels(reference)
    problems = grid_problems(predicted, true, "The prediction", prediction, reference)
    if any(problem.severity == "E" for problem in problems):
        raise InputError.of(problems)
    regions, odd = (None, []) if maps is None else maps.read(case, true)
    labels = np.asanyarray(true.dataobj)
    scores = evaluate_case(
        np.asanyarray(predicted.dataobj),
        labels,
        nib.affines.voxel_sizes(true.affine),
        regions,
        None if maps is None else maps.names,
        ignore_label,
    )
    values = np.flatnonzero(np.bincount(labels.ravel(order="K")))
    return scores, [*problems, *odd], set(values.tolist())
