"""The command: tools' masks against references and raters, scored scan by scan; statistics, tables, figures."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from mednext_jax.errors import InputError, Problem, in_groups, shown
from mednext_jax.evaluate.case import Scores, evaluate_case
from mednext_jax.evaluate.cohort import by_region
from mednext_jax.evaluate.find_masks import CASE, find_masks
from mednext_jax.evaluate.mask_source import REFERENCE, UNNAMED, MaskSource
from mednext_jax.evaluate.raters.consensus import simple_itk
from mednext_jax.evaluate.raters.mask_raters import CONSENSUS, check_cases
from mednext_jax.evaluate.raters.rating import Ratings, check_visual, rate_masks, rate_visually
from mednext_jax.evaluate.raters.rating_table import read_visual_scores
from mednext_jax.evaluate.results import Results, write_results
from mednext_jax.evaluate.study import empty_rows
from mednext_jax.evaluate.table import terminal_table
from mednext_jax.evaluate.thresholds.calibration import DOUBTFUL
from mednext_jax.evaluate.thresholds.sweep import CRITERIA
from mednext_jax.evaluate.thresholds.tool_sweep import ToolSweep
from mednext_jax.io.atomic import atomic_directory, refuse_existing
from mednext_jax.io.geometry import voxel_volume
from mednext_jax.io.nifti import refuse_labels
from mednext_jax.io.nifti_names import case_of, few
from mednext_jax.io.nnunet_raw import read_ignore_label
from mednext_jax.measure.regions import WHOLE, RegionMaps

__all__ = ["case_of", "evaluate", "find_masks"]

RULES = {
    "foreground": "every label above 0; voxels with the reference's ignore label count in neither mask",
    "clusters": "26-connected; any overlap (SHIVA-PVS): tp = reference clusters with a predicted voxel, "
    "fp = predicted clusters that touch no reference, fn = reference clusters without a predicted voxel; "
    "precision = tp / (tp + fp), recall = tp / (tp + fn), dice = 2 tp / (2 tp + fp + fn); "
    "tp_predicted = predicted clusters that touch a reference",
    "undefined": "0 / 0 is null (a case empty in both masks has no Dice) and left out of the means; n counts the rest",
    "regions": "voxel scores: voxels in the region; clusters, counts and volumes: by the region with most voxels",
    "surfaces": "voxels with a face to the background, distances between their centres in mm; nsd: within 1 mm or 1 "
    "voxel; hd95: the larger of both 95th percentiles, null if a mask is empty",
    "intervals": "95 %, percentile bootstrap over scans, 2000 resamples, seed 0",
}
MIDDLE = 0.5  # the threshold of the scores beside a sweep
Path_ = str | Path
T = TypeVar("T")


def evaluate(
    predictions: Path_ | Mapping[str, Path_] | None,
    references: Path_ | None,
    out: Path_,
    regions: Path_ | None = None,
    *,
    ignore_label: int | None = None,
    threshold: float | Mapping[str, float] | None = None,
    labels: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    resample: bool = False,
    raters: Mapping[str, Path_] | Path_ | None = None,
    sweep: Literal["dice", "cluster_dice"] | None = None,
    write_threshold: Path_ | None = None,
    figures: bool = True,
) -> dict[str, Any]:
    """Score masks of one or several tools against references, or compare them with raters; print tables, write `out`.

    predictions: a folder of label maps (searched with its subfolders), a file, or a pattern with {case}; or several by
    name, {"tool": folder, ...}. references: the same. Files are paired by case: the name without its ending, `_mask`,
    and BIDS entities that say what the map is. In a folder with names in `_mask`, other files (probabilities) are left
    out, and brain masks everywhere. Every prediction needs a reference; references without a prediction are listed, not
    scored. regions: a folder of region maps (`RegionMaps`) on the references' grids.
    ignore_label: the value of the references where neither mask counts; by default that of the dataset.json in or
    beside the folder of references, if it names one.
    threshold: a probability above it is PVS; then probability maps are read where there are some. labels: values of
    label maps that are PVS (default: all above 0). Both for all, or by the name of a tool, a rater or "reference".
    resample: bring maps of other grids onto the reference's (labels: nearest neighbour; probabilities: linear).
    raters: {"name": folder of masks, ...}, or a table of visual scores (`read_visual_scores`); then references may be
    None. sweep: score every threshold of the predictions' probability maps, and choose the one of the highest mean of
    this score (without `threshold`, the scores beside are at 0.5); write_threshold: a model directory or workdir that
    the choice of the one tool is written into. figures: False draws none.
    Returns the content of summary.json. Raises InputError with all problems of all cases; then nothing is written.
    """
    refuse_existing(out)
    refuse_labels(() if ignore_label is None else (ignore_label,), "The ignore label")
    tools, several = _tools(predictions)
    _check_call(tools, references, raters, sweep, write_threshold)
    if write_threshold is not None:
        from mednext_jax.weights.directory import read_thresholds  # JAX, for which scores need not wait

        read_thresholds(write_threshold)
    rater_names = list(raters) if isinstance(raters, Mapping) else []
    names = [*tools, *rater_names, REFERENCE]
    if taken := sorted({*names} & {*CONSENSUS}):
        raise InputError("A tool or rater is called like the raters' consensus.", found=few(taken), hint="NAME=FOLDER")
    if doubled := [name for name in names if names.count(name) > 1]:
        raise InputError("A name is there twice.", found=few(doubled), hint="name tools and raters apart: NAME=FOLDER")
    at = (dict.fromkeys(tools, MIDDLE) if sweep else {}) | _by_name(threshold, names, "threshold")
    values = _by_name(labels, names, "labels")

    def labels_of(name: str) -> tuple[int, ...] | None:
        return None if name not in values else tuple(values[name])

    def opened(name: str, source: Path_) -> MaskSource:
        return MaskSource.open(name, source, at.get(name), labels_of(name), resample)

    sources = [opened(name, source) for name, source in tools.items()]
    maps = None if regions is None else RegionMaps.open(regions)
    rate = _rating(raters, opened, sources, maps)
    warnings: list[Problem] = []
    values_there: set[int] = set()
    results, more = Results({}, several=several), {}
    if references is not None:
        # A threshold for all is for the tools: references are masks unless theirs is named.
        own = threshold.get(REFERENCE) if isinstance(threshold, Mapping) else None
        reference = MaskSource.open(REFERENCE, references, own, labels_of(REFERENCE))
        if len(tools) == 1 and all(Path(path).is_file() for path in (*tools.values(), references)):
            reference = dataclasses.replace(
                reference, files=dict(zip(sources[0].files, reference.files.values(), strict=True))
            )
        if ignore_label is None and CASE not in str(references):
            ignore_label = read_ignore_label(references if Path(references).is_dir() else Path(references).parent)
        results, absent, values_there = _score(sources, reference, maps, ignore_label, sweep, warnings)
        results = dataclasses.replace(results, several=several)
        more = {"references_without_prediction": absent, "ignore_label": ignore_label}
    if rate is not None:
        results = dataclasses.replace(results, ratings=rate(warnings))
    _print(results, more, warnings)
    if references is not None and labels_of(REFERENCE) is None:
        _print_labels(values_there, ignore_label)
    with atomic_directory(out) as folder:  # at the end: a full disk does not take the tables
        summary = write_results(folder, results, {**more, "rules": RULES}, figures=figures)
    if write_threshold is not None:
        _write_threshold(write_threshold, results)
    return summary


def _tools(predictions: Path_ | Mapping[str, Path_] | None) -> tuple[dict[str, Path_], bool]:
    """Name -> source, and whether the tables name them."""
    if isinstance(predictions, Mapping):
        if not predictions:
            raise InputError("There is no tool to evaluate.", expected="at least one folder of masks by its name")
        return dict(predictions), True
    return ({} if predictions is None else {UNNAMED: predictions}), False


def _check_call(
    tools: Mapping[str, Path_],
    references: Path_ | None,
    raters: Mapping[str, Path_] | Path_ | None,
    sweep: str | None,
    write_threshold: Path_ | None,
) -> None:
    if references is None and raters is None:
        raise InputError("Nothing says what to evaluate against.", expected="references, raters or both")
    if not tools and references is not None:
        raise InputError("Nothing says what to evaluate.", expected="predictions")
    folder = raters is not None and not isinstance(raters, Mapping) and Path(raters).is_dir()
    if folder or (isinstance(raters, Mapping) and len(raters) < 2):
        raise InputError("One rater agrees with nobody.", expected="masks of two raters or more, or a table of scores")
    if sweep is not None and (sweep not in CRITERIA or references is None):
        expected = f"{' or '.join(CRITERIA)}, with references"
        raise InputError("The threshold cannot be chosen so.", expected=expected, found=sweep)
    if write_threshold is not None and (sweep is None or len(tools) != 1):
        found = "no sweep" if sweep is None else f"{len(tools)} tools"
        raise InputError("There is no threshold to write.", expected="a sweep of one tool's maps", found=found)


def _by_name(option: T | Mapping[str, T] | None, names: Sequence[str], what: str) -> dict[str, T]:
    """An option for all tools and raters, or for those that it names."""
    if option is None:
        return {}
    if not isinstance(option, Mapping):
        return dict.fromkeys(names, option)
    if strange := [name for name in option if name not in names]:
        what = f"A value of {what} is for a name that is not there."
        raise InputError(what, expected=few(list(names)), found=few(strange))
    return dict(option)


def _score(
    sources: Sequence[MaskSource],
    reference: MaskSource,
    maps: RegionMaps | None,
    ignore_label: int | None,
    sweep: str | None,
    warnings: list[Problem],
) -> tuple[Results, list[str], set[int]]:
    """Every tool's scores, the references that no tool has a prediction for, and the references' label values."""
    problems = [
        Problem(
            "A prediction has no reference.",
            file=str(path),
            expected=f"a label map of the case {case}",
            found=few(list(reference.files)),
            hint="name both files after the case",
        )
        for source in sources
        for case, path in source.files.items()
        if case not in reference.files
    ]
    if problems:
        raise InputError.of(problems)
    cases = sorted(set().union(*(source.files for source in sources)))
    scores: dict[str, dict[str, dict[str, Scores]]] = {source.name: {} for source in sources}
    sweeps = {source.name: ToolSweep(sweep) for source in sources} if sweep else {}
    values: set[int] = set()
    for case in cases:
        try:
            image, true, counted, there = reference.reference(case, ignore_label, warnings)
            regions, odd = (None, []) if maps is None else maps.read(case, image)
        except InputError as error:
            problems += error.problems
            continue
        warnings += odd
        values |= there
        for source in (source for source in sources if case in source.files):
            try:
                mask = source.mask(case, image, warnings) & counted
                probability = source.probability(case, image) if sweep else None
            except InputError as error:
                problems += error.problems
                continue
            if problems:
                continue  # nothing will be written: only look for what else is wrong
            names = None if maps is None else maps.names
            voxel = voxel_volume(image.affine)
            found = evaluate_case(mask, true, voxel, regions, names, axes=image.affine[:3, :3])
            if probability is not None:
                found[WHOLE]["average_precision"] = sweeps[source.name].add(probability, true, counted)
            scores[source.name][case] = found
    if problems:
        raise InputError.of(problems)
    return Results(scores, sweeps), sorted(set(reference.files) - set(cases)), values


def _rating(
    raters: Mapping[str, Path_] | Path_ | None,
    opened: Callable[[str, Path_], MaskSource],
    sources: Sequence[MaskSource],
    maps: RegionMaps | None,
) -> Callable[[list[Problem]], Ratings] | None:
    """What compares the raters, given a list for warnings; what is wrong with their files is raised before any work."""
    if raters is None:
        return None
    if isinstance(raters, Mapping):
        masks = [opened(name, source) for name, source in raters.items()]
        check_cases(masks, sources)
        simple_itk()
        return functools.partial(rate_masks, masks, sources, maps)
    visual = read_visual_scores(raters)
    check_visual(visual, sources, maps)
    return functools.partial(rate_visually, visual, sources, maps)


def _print_labels(values: set[int], ignore_label: int | None) -> None:
    """Say what the label values of the references count as."""
    if ignore_label in values:
        print(f"voxels with the ignore label {ignore_label} in the reference are not counted")
    elif ignore_label is not None:
        print(f"no reference has a voxel with the ignore label {ignore_label}")
    if len(foreground := sorted(values - {0, ignore_label})) > 1:
        print(f"the labels {', '.join(map(str, foreground))} of the references count alike, as foreground")


def _print(results: Results, more: Mapping[str, Any], warnings: Sequence[Problem]) -> None:
    if warnings:
        print(in_groups(warnings))
    for name, cases in results.tools.items():
        title = f"{shown(name)}: " if results.several else ""
        print(
            f"{title}{len(cases)} case{'s' * (len(cases) != 1)}, mean ± SD; "
            "clusters: 26-connected, any overlap; r: Pearson"
        )
        print(terminal_table(by_region(list(cases.values()))))
    every = set().union(*results.tools.values())
    for name, cases in results.tools.items():
        if lacking := sorted(every - set(cases)):
            print(f"{shown(name)} has no mask of {len(lacking)} of the cases: {shown(few(lacking))}")
    if absent := more.get("references_without_prediction"):
        print(f"{len(absent)} references have no prediction and are not scored: {shown(few(absent))}")
    for row in empty_rows(results.tools):
        empty = {key: row[key] for key in row if key.startswith("empty_") and row[key]}
        if empty and row["region"] == WHOLE:
            what = ", ".join(f"{count} {key.replace('_', ' ')}" for key, count in empty.items())
            print(f"{shown(row['tool'])}: {what}")
    if any("cl_dice" not in case[WHOLE] for cases in results.tools.values() for case in cases.values()):
        print("no clDice: scikit-image is not installed (pip install 'mednext-jax[evaluate]')")
    for name, sweep in results.sweeps.items():
        at = "none: no scan has a reference voxel" if sweep.best is None else f"{sweep.best:g}"
        print(
            f"{shown(name)}: threshold of the highest mean {sweep.criterion.replace('_', ' ')}: {at}; "
            f"expected calibration error (voxels of {DOUBTFUL:g} or more): {_number(sweep.calibration.doubtful_error)}"
        )
    if results.ratings is not None:
        print("\n".join(results.ratings.lines()))


def _write_threshold(model: Path_, results: Results) -> None:
    from mednext_jax.weights.directory import set_threshold

    ((_, sweep),) = results.sweeps.items()
    if sweep.best is None:
        raise InputError("No threshold is best: no scan has PVS.", hint="choose on validation scans with PVS")
    about = {"criterion": sweep.criterion, "scans": len(sweep.scans)}
    for path in set_threshold(model, sweep.best, about):
        print(f"threshold {sweep.best:g} written into {shown(path)}")


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
