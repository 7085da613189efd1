"""What an evaluation writes: summary.json, long tables as CSV, the paper's tables, figures."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mednext_jax.evaluate.cohort import by_region
from mednext_jax.evaluate.figures.figure_file import NO_MATPLOTLIB, has_matplotlib
from mednext_jax.evaluate.figures.rater_figures import draw_rater_matrix, draw_second_rater
from mednext_jax.evaluate.figures.study_figures import draw_agreement, draw_recall_by_size, draw_scores
from mednext_jax.evaluate.figures.threshold_figures import draw_calibration, draw_froc, draw_sweep
from mednext_jax.evaluate.publication import latex_table, markdown_table, paper_rows, undefined_notes
from mednext_jax.evaluate.raters.rating import Ratings
from mednext_jax.evaluate.scores_file import CASES, SUMMARY, CaseScores, case_rows, write_summary
from mednext_jax.evaluate.study import QUANTITIES, Row, agreement_rows, comparison_rows, empty_rows, score_rows
from mednext_jax.evaluate.table import write_csv
from mednext_jax.evaluate.thresholds.tool_sweep import ToolSweep

FIGURES = "figures"
NOTES = (
    "Mean (SD) over scans; in brackets 95 % bootstrap intervals over scans.",
    "Clusters are 26-connected, and one is found if any voxel of it is (SHIVA-PVS).",
    "NSD: normalised surface Dice; HD95: 95th percentile of the surface distances; r: Pearson.",
)


@dataclasses.dataclass(frozen=True)
class Results:
    """What an evaluation has found. tools: tool -> case -> region -> scores; several: named in the tables."""

    tools: Mapping[str, CaseScores]
    sweeps: Mapping[str, ToolSweep] = dataclasses.field(default_factory=dict)
    ratings: Ratings | None = None
    several: bool = False


def write_results(folder: Path, results: Results, more: Mapping[str, Any], *, figures: bool) -> dict[str, Any]:
    """Write everything into `folder`; returns the content of summary.json, to which `more` is added.

    For one tool without a name summary.json is that of `write_scores` with more keys; for several it has
    {"tools": {name: {"regions", "cases"}}}.
    """
    tools = results.tools
    summary: dict[str, Any] = {}
    parts = {name: {"regions": by_region(list(cases.values())), "cases": cases} for name, cases in tools.items()}
    if results.several:
        summary["tools"] = {name: {"regions": part["regions"]} for name, part in parts.items()}
    elif parts:
        summary["regions"] = next(iter(parts.values()))["regions"]
    summary |= more
    scores: list[Row] = []
    if tools:
        scores, statistics = _write_study(folder, results)
        summary["statistics"] = statistics
    if results.sweeps:
        summary["thresholds"] = {name: sweep.summary() for name, sweep in results.sweeps.items()}
        rows = [{"tool": name} | row for name, sweep in results.sweeps.items() for row in sweep.rows]
        write_csv(folder / "threshold_sweep.csv", rows)
        curves = [{"tool": name} | row for name, sweep in results.sweeps.items() for row in sweep.calibration.curve()]
        write_csv(folder / "calibration.csv", curves)
    if results.ratings is not None:
        summary["raters"] = results.ratings.write(folder)
    if results.several:
        for name, part in parts.items():
            summary["tools"][name]["cases"] = part["cases"]
    elif parts:
        summary["cases"] = next(iter(parts.values()))["cases"]
    write_summary(folder / SUMMARY, summary)
    if figures:
        _draw(folder / FIGURES, results, scores)
    return summary


def _write_study(folder: Path, results: Results) -> tuple[list[Row], dict[str, Any]]:
    """The tables of the tools' scores; returns the rows of the scores, and all for summary.json."""
    tools = results.tools
    scores, agreement, empty = score_rows(tools), agreement_rows(tools), empty_rows(tools)
    cases = [
        row for name, found in tools.items() for row in case_rows(found, **({"tool": name} if results.several else {}))
    ]
    write_csv(folder / CASES, cases)
    write_csv(folder / "scores.csv", scores)
    write_csv(folder / "agreement.csv", agreement)
    statistics = {"scores": scores, "agreement": agreement, "empty": empty}
    notes = [*NOTES, *undefined_notes(empty)]
    if len(tools) > 1:
        statistics["comparisons"] = comparison_rows(tools)
        write_csv(folder / "comparisons.csv", statistics["comparisons"])
    rows, words = paper_rows(scores, agreement), 2
    if not results.several:
        rows, words = [row[1:] for row in rows], 1
    (folder / "table.md").write_text(markdown_table(rows, notes), encoding="utf-8")
    (folder / "table.tex").write_text(
        latex_table(rows, notes, "Agreement with the reference.", words), encoding="utf-8"
    )
    return scores, statistics


def _draw(folder: Path, results: Results, scores: Sequence[Row]) -> None:
    if not has_matplotlib():
        print(NO_MATPLOTLIB)
        return
    drawings: list[Callable[[], None]] = []
    if results.tools:
        drawings.append(lambda: draw_scores(folder, results.tools, scores))
        drawings += [functools.partial(draw_agreement, folder, results.tools, quantity) for quantity in QUANTITIES]
        drawings.append(lambda: draw_recall_by_size(folder, scores))
    if results.sweeps:
        rows = {name: sweep.rows for name, sweep in results.sweeps.items()}
        drawings.append(lambda: draw_sweep(folder, rows, {name: sweep.best for name, sweep in results.sweeps.items()}))
        drawings.append(lambda: draw_froc(folder, rows))
        drawings.append(
            lambda: draw_calibration(folder, {name: sweep.calibration for name, sweep in results.sweeps.items()})
        )
    if results.ratings is not None and results.ratings.pairs:
        pairs, second = results.ratings.pairs, results.ratings.second
        drawings.append(lambda: draw_rater_matrix(folder, pairs))
        if second:
            drawings.append(lambda: draw_second_rater(folder, second))
    for draw in drawings:
        draw()
