"""Scores as a table on the terminal and as a CSV file."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mednext_jax.errors import shown
from mednext_jax.io.table_cell import quoted

COLUMNS = {
    "Dice": "dice",
    "precision": "precision",
    "recall": "recall",
    "cluster Dice": "cluster_dice",
    "cl. precision": "cluster_precision",
    "cl. recall": "cluster_recall",
}


def terminal_table(regions: Mapping[str, Mapping[str, Any]]) -> str:
    """Mean ± standard deviation over cases, a row for each region; `regions` maps names to `summarise`'s results."""
    rows = [["region", *COLUMNS, "volume mm3 (truth)", "r", "count (truth)", "r"]]
    for region, summary in regions.items():
        row = [shown(region), *(_mean_sd(summary[name]) for name in COLUMNS.values())]
        for name, digits in (("volume_mm3", 0), ("count", 1)):
            pair = summary[name]
            row.append(f"{pair['mean']:.{digits}f} ({pair['reference_mean']:.{digits}f})")
            row.append(_number(pair["pearson"]))
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV with the union of their columns; NaN and absent values are empty cells.

    Texts are `shown` (no control characters) and `quoted` (no formula).
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n", restval="")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _cell(value) for name, value in row.items()})


def _mean_sd(distribution: Mapping[str, float]) -> str:
    mean, sd = distribution["mean"], distribution["sd"]
    return _number(mean) if math.isnan(sd) else f"{mean:.3f} ± {sd:.3f}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _cell(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return ""
    return quoted(shown(value)) if isinstance(value, str) else value
