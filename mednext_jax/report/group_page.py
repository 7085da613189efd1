"""The page of a cohort: distributions, outliers, failed scans, columns of participants.tsv against the measures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mednext_jax.report.association import (
    LEVEL,
    OUTLIER,
    as_groups,
    as_numbers,
    fit_line,
    mean_interval,
    outliers,
)
from mednext_jax.report.charts import distribution, scatter
from mednext_jax.report.measured import BOTH, TableRow, is_whole, number
from mednext_jax.report.page import how_to_cite, key_figures, link, section, text, write_page
from mednext_jax.report.sortable_table import MAX_ROWS, compact, sortable_table

MEASURES = {"count": "PVS", "volume_mm3": "volume of PVS (mm³)"}
MAX_REGIONS = 8  # that are drawn beside each other
MAX_COLUMNS = 12  # columns of participants.tsv that are drawn
NAME = "participant_id"


@dataclasses.dataclass(frozen=True)
class Cohort:
    """rows: with a column scan; if they have regions, one a scan and region. failed: case -> why it has no numbers.

    pages: case -> relative path of its page, for those that have one. participants: case -> its row of
    participants.tsv.
    """

    rows: Sequence[TableRow]
    pages: Mapping[str, str]
    failed: Mapping[str, str]
    participants: Mapping[str, Mapping[str, str]]
    dictionary: Mapping[str, Mapping[str, Any]]

    @property
    def whole(self) -> list[TableRow]:
        """The rows of whole brains, sorted by scan."""
        return sorted(filter(is_whole, self.rows), key=lambda row: row["scan"])


def write_group_page(path: Path, cohort: Cohort, made_from: str) -> None:
    """Write the page."""
    values = {c: {r["scan"]: v for r in cohort.whole if (v := number(r, c)) is not None} for c in MEASURES}
    figures = [("Scans", str(len(cohort.whole)), f"{len(cohort.failed)} failed" if cohort.failed else "none failed")]
    for column, (name, of) in {"count": ("Median PVS", ""), "volume_mm3": ("Median volume", " mm³")}.items():
        if values[column]:
            q1, q2, q3 = (compact(float(q)) for q in np.percentile(list(values[column].values()), (25, 50, 75)))
            figures.append((name, q2, f"{of.strip()} (quartiles {q1} to {q3})".strip()))
    sections = {
        "Distributions": _distributions(values, cohort),
        "Outliers": _outliers(values, cohort),
        "Failed scans": _failed(cohort),
        "Participants": _participants(values, cohort),
        "Scans": _scans(cohort),
        "Cite": how_to_cite(),
    }
    write_page(path, "Perivascular spaces: all scans", key_figures(figures), sections, ("table.js",), made_from)


def _distributions(values: Mapping[str, Mapping[str, float]], cohort: Cohort) -> str:
    charts = []
    for column, quantity in MEASURES.items():
        groups = [("whole brain", list(values[column].values())), *_by_region(cohort, column)]
        charts += [distribution([group], quantity) for group in groups[:1] if group[1]]
        charts += [distribution(groups[1:], quantity)] if groups[1:] else []
    figures = "".join(f"<figure>{chart}</figure>" for chart in charts)
    body = f'<div class="charts">{figures}</div>' if charts else '<p class="empty">There are no scans.</p>'
    said = (
        "<p>Each point is a scan; the box holds the middle half, the line in it is the median. A triangle at the top "
        "is a scan that lies far above the axis.</p>"
    )
    return section("distributions", "Distributions", said + body)


def _by_region(cohort: Cohort, column: str) -> list[tuple[str, list[float]]]:
    """Region -> its values in the scans, both sides together; the first `MAX_REGIONS` that are not empty."""
    found: dict[str, list[float]] = {}
    for row in cohort.rows:
        value = number(row, column)
        if value is not None and not is_whole(row) and row.get("hemisphere", "") in BOTH:
            found.setdefault(row["region"], []).append(value)
    return [(name, values) for name, values in found.items() if any(values)][:MAX_REGIONS]


def _outliers(values: Mapping[str, Mapping[str, float]], cohort: Cohort) -> str:
    rows = []
    for column, quantity in MEASURES.items():
        cases = list(values[column])
        for case, score in zip(cases, outliers(list(values[column].values())), strict=True):
            if score is not None:
                side = "high" if score > 0 else "low"
                value = f"{values[column][case]:g}"
                rows.append({"scan": case, "measure": quantity, "value": value, "side": side, "z": f"{score:.1f}"})
    said = (
        f"<p>Scans whose count or volume is far from the others': modified z-score beyond {OUTLIER:g}, of the "
        "logarithm of 1 + value. An outlier may be true; look at the scan.</p>"
    )
    table = sortable_table(rows, "Outliers", {}, lambda row: _linked(row["scan"], cohort.pages))
    return section("outliers", "Outliers", said + table)


def _failed(cohort: Cohort) -> str:
    rows = [{"scan": case, "why": " ".join(why.split())} for case, why in sorted(cohort.failed.items())]
    return section("failed", "Failed scans", sortable_table(rows, "Failed scans", {}))


def _scans(cohort: Cohort) -> str:
    of_region = ("scan", "region", "hemisphere")
    rows = [{"scan": r["scan"]} | {k: v for k, v in r.items() if k not in of_region} for r in cohort.whole]
    if len(rows) > MAX_ROWS:  # each is the way to its page
        rows = [{name: row[name] for name in ("scan", *MEASURES) if name in row} for row in rows]
    table = sortable_table(rows, "Scans", cohort.dictionary, lambda row: _linked(row["scan"], cohort.pages), limit=None)
    return section("scans", "Scans", table)


def _participants(values: Mapping[str, Mapping[str, float]], cohort: Cohort) -> str:
    columns = list(dict.fromkeys(name for row in cohort.participants.values() for name in row if name != NAME))
    parts = []
    for column in columns:
        of = {case: row.get(column, "") for case, row in cohort.participants.items()}
        charts = [
            chart
            for measure, quantity in MEASURES.items()
            if (chart := _against(column, of, values[measure], quantity, cohort.pages))
        ]
        if charts:
            parts.append(f'<h3>{text(column)}</h3><div class="charts">{"".join(charts)}</div>')
    left = len(parts) - MAX_COLUMNS
    said = (
        "<p>Lines are least squares of all scans, outliers too, not adjusted for anything; bands and bars are "
        f"{LEVEL:.0%} intervals of the mean. Columns that are the same for all, or another word for each, are left out."
        "</p>"
    )
    if not parts:
        said = '<p class="empty">There is no participants.tsv with a column to show (--participants FOLDER).</p>'
    more = f"<p>{left} columns more are not shown.</p>" if left > 0 else ""
    return section("participants", "Participants", said + "".join(parts[:MAX_COLUMNS]) + more)


def _against(
    column: str, of: Mapping[str, str], measured: Mapping[str, float], quantity: str, pages: Mapping[str, str]
) -> str:
    """One chart of a column against a measure, with its numbers in words; '' if there is nothing to show."""
    there = {case: value for case, value in of.items() if case in measured}
    numeric = as_numbers(there)
    if numeric is not None:
        cases = list(numeric)
        x, y = list(numeric.values()), [measured[case] for case in cases]
        line = fit_line(x, y)
        if line is None:
            return ""
        low, high = line.slope_interval
        said = (
            f"{quantity} by {column}: slope {compact(line.slope)} a unit, {LEVEL:.0%} interval {compact(low)} to "
            f"{compact(high)}; r {line.correlation:.2f}, p {line.p_value:.2g}, n {len(x)}."
        )
        links = [(link(pages[c]) if c in pages else "", f"{c}: {column} {there[c]}, {measured[c]:g}") for c in cases]
        chart = scatter(x, y, (column, quantity), line.band, said, links)
    else:
        groups = as_groups(there)
        if groups is None:
            return ""
        grouped = [(name, [measured[case] for case in cases]) for name, cases in groups.items()]
        means = [mean_interval(v) for _, v in grouped]
        said = f"{quantity} by {column}: " + "; ".join(
            f"{name} mean {compact(m)} ({compact(low)} to {compact(high)}), n {len(v)}"
            for (name, v), (m, low, high) in zip(grouped, means, strict=True)
        )
        chart = distribution(grouped, quantity, means)
    return f"<figure>{chart}<figcaption>{text(said)}</figcaption></figure>"


def _linked(case: str, pages: Mapping[str, str]) -> str:
    return f'<a href="{link(pages[case])}">{text(case)}</a>' if case in pages else text(case)
