"""The table of a cross-validation: each scan scored by the model that did not see it, whole and by region.

The columns are those of MedNet-PVS's table (Low et al. 2025): voxel and cluster Dice, sensitivity and precision as mean
(SD) over scans, and the correlation over scans of PVS volume and count with the reference.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mednext_jax.errors import InputError, Problem, shown
from mednext_jax.evaluate.case import Scores
from mednext_jax.evaluate.cohort import by_region
from mednext_jax.evaluate.scores_file import SUMMARY, read_scores
from mednext_jax.evaluate.table import write_csv
from mednext_jax.io.atomic import atomic_file
from mednext_jax.measure.regions import WHOLE

VALIDATION = "validation"  # of a training run: masks and scores of its fold's validation scans
TABLES = "cross_validation"
MOST_FOLDS = 100_000  # as many as there are people: one left out at a time
# Title -> score; the order of the columns in the paper.
DISTRIBUTIONS = {
    "voxel Dice": "dice",
    "cluster Dice": "cluster_dice",
    "voxel sensitivity": "recall",
    "cluster sensitivity": "cluster_recall",
    "voxel precision": "precision",
    "cluster precision": "cluster_precision",
}
CORRELATIONS = {"r volume": "volume_mm3", "r count": "count"}


@dataclasses.dataclass(frozen=True)
class ScoredFold:
    """What a run's scores say about the fold they are of; a fold may have been trained on another machine."""

    index: str  # of the split, or "all"
    count: int  # folds of the split
    splits: str  # what `prepare --splits` was given
    data_set: str  # its name
    data_set_sha256: str  # of sources, settings and splits
    channels: tuple[str, ...]
    spacing: tuple[float, ...] | None  # mm (d, h, w) = (z, y, x) of the grid that was scored; None: each scan's own
    cases: tuple[str, ...]  # to validate on

    @classmethod
    def from_dict(cls, values: Any, file: Path) -> ScoredFold:
        """From JSON; raises InputError if it is something else."""
        kinds = {"count": int, "channels": list, "cases": list, "spacing": list | None}
        fields = {field.name: kinds.get(field.name, str) for field in dataclasses.fields(cls)}
        right = isinstance(values, dict) and set(values) == set(fields)
        right = right and all(isinstance(values[name], kind) for name, kind in fields.items())
        right = right and all(isinstance(name, str) for name in (*values["channels"], *values["cases"]))
        right = right and all(isinstance(size, int | float) for size in values["spacing"] or ())
        right = right and type(values["count"]) is int and 0 < values["count"] <= MOST_FOLDS
        if not (right and re.fullmatch("all|[0-9]{1,9}", values["index"])):
            raise InputError(
                "The scores do not say which fold they are of.",
                file=file,
                expected=f'"fold": an object with {", ".join(fields)}',
                found=str(values)[:200],
                hint="validate this fold again: remove its validation and model folders and repeat its train command",
            )
        frozen: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**frozen)


@dataclasses.dataclass(frozen=True)
class CrossValidation:
    """The scores of all folds that are there. scores: one row per scan, by fold, (fold, case, region -> scores)."""

    first: ScoredFold
    missing: tuple[int, ...]
    scores: tuple[tuple[str, str, dict[str, Scores]], ...]

    @functools.cached_property
    def summaries(self) -> dict[str, dict[str, Any]]:
        """Region -> what `summarise` says of all scans."""
        return by_region([regions for _, _, regions in self.scores])

    @property
    def design(self) -> str:
        """5FCV, LOSOCV, ... and what the split went by."""
        kind, _, argument = self.first.splits.partition(":")
        by_folds = f"{self.first.count}FCV"
        if kind == "loso":
            return "LOSOCV"
        if kind == "stratified":
            return f"{by_folds}, stratified by {argument.partition(':')[0]}"
        return by_folds if kind == "kfold" else f"{by_folds}, given splits"

    @property
    def title(self) -> str:
        """One line: which scans, which design, on which grid."""
        scans = {case for _, case, _ in self.scores}
        again = len(self.scores) - len(scans)
        spacing = self.first.spacing
        grid = "each scan's own grid" if spacing is None else "x".join(f"{s:g}" for s in reversed(spacing)) + " mm"
        return (
            f"{self.first.data_set} ({', '.join(self.first.channels)}), {self.design}: {len(scans)} scans"
            f"{f' ({again} of them scored more than once)' if again else ''}, scored on {grid}, "
            "each by a model that did not see it"
        )


def evaluate_cross_validation(folder: str | Path, out: str | Path | None = None) -> CrossValidation:
    """Print the table of the folds found in `folder` and write it into `out` (default: `folder`/cross_validation).

    Writes table.csv, table.md and cases.csv, in place of earlier ones. Raises as `read_cross_validation`.
    """
    found = read_cross_validation(folder)
    out = Path(folder) / TABLES if out is None else Path(out)
    text = markdown([found])
    with atomic_file(out / "table.csv") as path:
        write_csv(path, table_rows(found))
    with atomic_file(out / "cases.csv") as path:
        write_csv(
            path,
            [
                {"fold": fold, "case": case, "region": _shown(region), **row}
                for fold, case, regions in found.scores
                for region, row in regions.items()
            ],
        )
    with atomic_file(out / "table.md") as path:
        path.write_text(text, encoding="utf-8")
    print(text, end="")
    return found


def read_cross_validation(folder: str | Path) -> CrossValidation:
    """The scores of the runs in `folder`: each FOLDER/RUN/validation of `mednext-jax train`, whatever RUN is called.

    A fold without scores is left out and listed in `missing`; runs of `fold=all` are left out, for they saw what they
    were validated on. Raises InputError, with all problems together, if there is no fold, if scores cannot be read, or
    if the runs do not belong together.
    """
    folder = Path(folder)
    files = sorted(folder.glob(f"*/{VALIDATION}/{SUMMARY}"))
    problems: list[Problem] = []
    folds: dict[int, tuple[Path, ScoredFold, dict[str, dict[str, Scores]]]] = {}
    for file in files:
        try:
            content = read_scores(file.parent)
            fold = ScoredFold.from_dict(content.get("fold"), file)
        except InputError as error:
            problems += error.problems
            continue
        if fold.index != "all":
            problems += _misfits(fold, file, content["cases"], folds)
            folds.setdefault(int(fold.index), (file, fold, content["cases"]))
    if problems:
        raise InputError.of(problems)
    if not folds:
        raise InputError(
            "There is no validated fold.",
            file=folder,
            expected=f"RUN/{VALIDATION}/{SUMMARY} in it, which `mednext-jax train` writes at the end of a fold",
            found="no folder" if not folder.is_dir() else f"{len(files)} runs, all with fold=all" if files else "none",
            hint="train with config.final_validation, or name the folder that holds the folds' work folders",
        )
    first = next(iter(folds.values()))[1]
    return CrossValidation(
        first=first,
        missing=tuple(sorted(set(range(first.count)) - set(folds))),
        scores=tuple((str(i), case, cases[case]) for i, (_, _, cases) in sorted(folds.items()) for case in cases),
    )


def _misfits(
    fold: ScoredFold,
    file: Path,
    cases: dict[str, dict[str, Scores]],
    others: dict[int, tuple[Path, ScoredFold, dict[str, dict[str, Scores]]]],
) -> list[Problem]:
    """Why the scores of `file` cannot stand in one table with `others`."""
    name = str(file)
    if not fold.cases or not cases:
        return [Problem(f"Fold {fold.index} has no validation case.", name, hint="prepare with other --splits")]
    problems = []
    if set(cases) != set(fold.cases):
        what = f"Fold {fold.index} has not scored its validation cases."
        expected, found = (", ".join(sorted(names)[:8]) for names in (fold.cases, cases))
        problems.append(Problem(what, name, expected, found, "validate this fold again"))
    if not int(fold.index) < fold.count:
        what = "The fold is not one of its splits."
        problems.append(Problem(what, name, f"0 to {fold.count - 1}", fold.index))
    regions = {region for scores in cases.values() for region in scores}
    if any(set(scores) != regions for scores in cases.values()):
        problems.append(Problem("Not every scan is scored in the same regions.", name))
    if not others:
        return problems
    if int(fold.index) in others:
        what = f"Fold {fold.index} is there twice."
        problems.append(Problem(what, name, found=str(others[int(fold.index)][0]), hint="move one of them elsewhere"))
    other_file, other, other_cases = next(iter(others.values()))
    if set(next(iter(other_cases.values()))) != regions:
        problems.append(Problem("The folds are not scored in the same regions.", name, found=str(other_file)))
    for what, ours, theirs in (
        ("The folds are of different data sets.", fold.data_set, other.data_set),
        ("The folds are of different splits.", (fold.splits, fold.count), (other.splits, other.count)),
        ("The data set was prepared otherwise for this fold.", fold.data_set_sha256, other.data_set_sha256),
    ):
        if ours != theirs:
            hint = "keep the folds of one prepared data set in a folder of their own"
            problems.append(Problem(what, name, f"{theirs}, as in {other_file}", str(ours), hint))
            break
    return problems


def table_rows(found: CrossValidation) -> list[dict[str, Any]]:
    """One row per region, numbers unrounded: `table.csv`."""
    rows = []
    for region, summary in found.summaries.items():
        row: dict[str, Any] = {
            "data_set": found.first.data_set,
            "contrast": ", ".join(found.first.channels),
            "design": found.design,
            "region": _shown(region),
            "folds": found.first.count - len(found.missing),
            "folds_of": found.first.count,
            "scans": summary["cases"],
        }
        for name in DISTRIBUTIONS.values():
            row |= {f"{name}_{part}": summary[name][part] for part in ("mean", "sd", "n")}
        for name in CORRELATIONS.values():
            row |= {f"{name}_{part}": summary[name][part] for part in ("pearson", "spearman", "mean", "reference_mean")}
        rows.append(row)
    return rows


def markdown(several: Sequence[CrossValidation]) -> str:
    """One table for one or several cross-validations, with what has to be known to read it."""
    rows = [["contrast", "design", "region", "scans", *DISTRIBUTIONS, *CORRELATIONS]]
    undefined = []
    for found in several:
        for region, summary in found.summaries.items():
            place = [", ".join(found.first.channels), found.design, _shown(region)]
            means = [_mean_sd(summary[name]) for name in DISTRIBUTIONS.values()]
            correlations = [_rounded(summary[name]["pearson"]) for name in CORRELATIONS.values()]
            rows.append([*place, str(summary["cases"]), *means, *correlations])
            fewer = {title: summary[name]["n"] for title, name in DISTRIBUTIONS.items()}
            fewer = {title: n for title, n in fewer.items() if n < summary["cases"]}
            if fewer:
                undefined.append(
                    f"{', '.join(place)}: {', '.join(f'{title} of {n} scans' for title, n in fewer.items())}"
                )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rows.insert(1, ["-" * width for width in widths])
    lines = [f"| {' | '.join(cell.ljust(n) for cell, n in zip(row, widths, strict=True))} |" for row in rows]
    notes = [f"- {found.title}." for found in several]
    for found in several:
        if found.missing:
            which = f"fold{'s' * (len(found.missing) > 1)} {', '.join(map(str, found.missing))}"
            notes.append(
                f"- **Incomplete: {found.design} ({', '.join(found.first.channels)}) lacks {which} "
                f"of 0 to {found.first.count - 1}**; the table is over the scans of the others."
            )
    notes.append(
        "- Mean (SD) over scans; clusters are 26-connected, and one is found if any voxel of it is (SHIVA-PVS); "
        "r is Pearson's, over scans."
    )
    if undefined:
        notes += ["- A score of 0/0 is left out:", *(f"  - {line}" for line in undefined)]
    return "\n".join(shown(line) for line in [*lines, "", *notes]) + "\n"


def _shown(region: str) -> str:
    return "whole" if region == WHOLE else shown(region)


def _mean_sd(distribution: dict[str, float]) -> str:
    if math.isnan(distribution["sd"]):
        return _rounded(distribution["mean"])
    return f"{distribution['mean']:.2f} ({distribution['sd']:.2f})"


def _rounded(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
