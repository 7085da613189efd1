"""The scores of a set of scans on disk: summary.json, complete, and cases.csv for a spreadsheet."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mednext_jax.errors import InputError
from mednext_jax.evaluate.case import Scores
from mednext_jax.evaluate.cohort import by_region
from mednext_jax.evaluate.table import COLUMNS, write_csv
from mednext_jax.io.json_file import read_json
from mednext_jax.measure.regions import WHOLE

SUMMARY, CASES = "summary.json", "cases.csv"
# Ten thousand scans with ten regions.
SUMMARY_LIMIT = 2**28
NEEDED = (*COLUMNS.values(), "volume_mm3", "reference_volume_mm3", "count", "reference_count")

CaseScores = Mapping[str, Mapping[str, Scores]]  # case -> region -> scores


def write_scores(folder: Path, cases: CaseScores, **more: Any) -> dict[str, Any]:
    """Write summary.json and cases.csv into `folder`; returns what the former holds.

    That is {"regions": {region: summarise(...)}, "cases": cases, **more}.
    """
    summary = {"regions": by_region(list(cases.values())), **more, "cases": cases}
    write_summary(folder / SUMMARY, summary)
    write_csv(folder / CASES, case_rows(cases))
    return summary


def write_summary(file: Path, summary: Mapping[str, Any]) -> None:
    """Write a summary as JSON, null for NaN."""
    file.write_text(json.dumps(without_nan(summary), indent=2, allow_nan=False) + "\n")


def case_rows(cases: CaseScores, **more: Any) -> list[dict[str, Any]]:
    """A row for each case and region, with the columns of `more` before its scores."""
    return [
        {**more, "case": case, "region": region, **row}
        for case, scores in cases.items()
        for region, row in scores.items()
    ]


def read_scores(folder: Path) -> dict[str, Any]:
    """The content of a summary.json of `write_scores`, its cases with NaN for null.

    Raises InputError if the file is missing, or not one of these.
    """
    path = folder / SUMMARY
    content = read_json(path, limit=SUMMARY_LIMIT)
    try:
        cases = {
            case: {region: _scores(row) for region, row in regions.items()}
            for case, regions in content["cases"].items()
        }
        if not all(WHOLE in regions for regions in cases.values()):
            raise KeyError(WHOLE)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise InputError(
            "The scores cannot be read.",
            file=path,
            expected="the summary.json that a validation or `mednext-jax evaluate` writes",
            found=f"{type(error).__name__}: {error}",
            hint="make it again: remove this folder and repeat the command that wrote it",
        ) from error
    return {**content, "cases": cases}


def _scores(row: Mapping[str, Any]) -> Scores:
    absent = [name for name in NEEDED if name not in row]
    if absent:
        raise KeyError(", ".join(absent))
    return {name: math.nan if value is None else _number(value) for name, value in row.items()}


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return value


def without_nan(value: Any) -> Any:
    """A value of JSON with null for each NaN, which JSON has not: a score of 0/0."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
