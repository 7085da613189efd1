"""Visual scores of the same scans by several raters, from a TSV: kappa, ICC, and a tool's counts beside them."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mednext_jax.errors import InputError, Problem
from mednext_jax.evaluate.raters.mask_raters import icc_row
from mednext_jax.evaluate.statistics.agreement import spearman
from mednext_jax.evaluate.statistics.bootstrap import interval
from mednext_jax.evaluate.statistics.kappa import weighted_kappa
from mednext_jax.evaluate.study import Row
from mednext_jax.io.nifti_names import few
from mednext_jax.io.table_cell import unquoted
from mednext_jax.io.table_file import read_table
from mednext_jax.measure.regions import WHOLE

CASE_COLUMNS = ("case", "participant_id", "scan")
REGION_COLUMN = "region"
MISSING = ("", "n/a", "na", "nan")
# Kappa is of grades (Potter: 0 to 4); what goes further is a count.
GRADES = 11
MEDIAN = "median of raters"


@dataclasses.dataclass(frozen=True)
class VisualScores:
    """scores: (case, region) -> {column: score}; a missing one is NaN. columns: raters, and tools' own scores."""

    file: Path
    columns: tuple[str, ...]
    scores: Mapping[tuple[str, str], Mapping[str, float]]

    @property
    def cases(self) -> list[str]:
        """The cases, in the order of the file."""
        return list(dict.fromkeys(case for case, _ in self.scores))

    @property
    def regions(self) -> list[str]:
        """The regions, in the order of the file; "all" without a column for them."""
        return list(dict.fromkeys(region for _, region in self.scores))


def read_visual_scores(path: str | Path) -> VisualScores:
    """Read a table (`read_table`): a column `case` (or participant_id, scan), if wanted `region`, one for each rater.

    Scores are numbers from 0 on; empty or n/a is missing. Raises InputError as `read_table`, or if a column is missing
    or there twice, a score is none, or a case (and region) is there twice.
    """
    path = Path(path)
    head, rows = read_table(path)
    case_column = next((name for name in CASE_COLUMNS if name in head), None)
    columns = [name for name in head if name not in (case_column, REGION_COLUMN)]
    problems = []
    if case_column is None:
        problems.append(
            Problem("A column is missing.", str(path), " or ".join(CASE_COLUMNS), ", ".join(head) or "none")
        )
    if len(columns) < 2:
        hint = "separate the columns by tabs"
        problems.append(Problem("Fewer than two raters.", str(path), "a column each", ", ".join(head) or "none", hint))
    if doubled := sorted({name for name in head if head.count(name) > 1 or not name}):
        problems.append(Problem("A column has no name, or another's.", str(path), found=repr(few(doubled))))
    scores: dict[tuple[str, str], dict[str, float]] = {}
    for number, row in enumerate(rows, 1) if not problems else ():
        cells = {name: unquoted(cell.strip()) for name, cell in row.items()}
        key = cells[case_column or ""], cells.get(REGION_COLUMN, WHOLE)
        if key in scores:
            found = f"row {number}: {', '.join(key if REGION_COLUMN in head else key[:1])}"
            problems.append(Problem("A case is there twice.", str(path), found=found, hint="keep one row"))
        scores[key] = {}
        for name in columns:
            value = _score(cells[name])
            if value is None:
                found = f"row {number}, {name}: {cells[name]}"
                problems.append(Problem("A score is no number from 0 on.", str(path), "such as 0 to 4, or n/a", found))
            scores[key][name] = math.nan if value is None else value
    if not problems and not scores:
        problems.append(Problem("The table has no rows.", str(path)))
    if problems:
        raise InputError.of(problems)
    return VisualScores(path, tuple(columns), scores)


def visual_rows(
    visual: VisualScores, tools: Sequence[str] = (), counts: Mapping[tuple[str, str, str], float] | None = None
) -> list[Row]:
    """How columns agree, a row for each pair in each region, over the scans where both have a score.

    A column that is called like one of `tools` is that tool's score (such as a visual score that it computes); the
    others are raters. Each pair of raters, each tool with each rater and with `MEDIAN` (the lower of two middle ones).
    kappa_linear, kappa_quadratic: of whole scores up to 10; ICC; spearman with its interval. counts: (tool, case,
    region) -> PVS, whose Spearman correlation with each rater is a row "TOOL (count)". Besides a row "all raters", with
    their ICC.
    """
    raters = [name for name in visual.columns if name not in tools]
    rows = []
    for region in visual.regions:
        cases = [case for case, where in visual.scores if where == region]
        table = {name: np.array([visual.scores[case, region][name] for case in cases]) for name in visual.columns}
        every = np.stack([table[name] for name in raters], -1)
        middle = np.array(
            [statistics.median_low(row) if not np.isnan(row).any() else math.nan for row in every.tolist()]
        )
        complete = every[~np.isnan(every).any(1)]
        rows.append({"region": region, "first": "all raters", "second": "", "scans": len(complete)} | icc_row(complete))
        pairs = [(a, table[a], b, table[b], True) for a, b in itertools.combinations(raters, 2)]
        held = [(name, table[name]) for name in raters] + [(MEDIAN, middle)]
        pairs += [(t, table[t], b, values, True) for t in tools if t in table for b, values in held]
        for tool in tools if counts else ():
            found = np.array([(counts or {}).get((tool, case, region), math.nan) for case in cases])
            pairs += [(f"{tool} (count)", found, b, values, False) for b, values in held]
        for first, x, second, y, grades in pairs:
            both = ~(np.isnan(x) | np.isnan(y))
            row = {"region": region, "first": first, "second": second, "scans": int(both.sum())}
            rows.append(row | _pair(x[both], y[both], grades))
    return rows


def _pair(x: np.ndarray, y: np.ndarray, grades: bool) -> Row:
    pair = np.stack([x, y], -1)
    row: Row = icc_row(pair) if grades else {}
    whole = grades and len(pair) > 0 and bool((pair == np.rint(pair)).all()) and pair.max() < GRADES
    if whole:
        row |= {f"kappa_{kind}": weighted_kappa(x, y, kind, GRADES) for kind in ("linear", "quadratic")}
    low, high = interval(lambda drawn: spearman(drawn[..., 0], drawn[..., 1]), pair)
    return row | {"spearman": float(spearman(x, y)), "spearman_low": low, "spearman_high": high}


def _score(cell: str) -> float | None:
    """NaN for a missing score, None for what is none."""
    if cell.lower() in MISSING:
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
