"""The table of a paper, as Markdown and LaTeX: a row for each tool and region, mean (SD) and agreement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mednext_jax.errors import shown
from mednext_jax.evaluate.study import Row
from mednext_jax.measure.regions import WHOLE

# Title -> score and digits.
MEANS = {
    "Dice": ("dice", 2),
    "sensitivity": ("recall", 2),
    "precision": ("precision", 2),
    "cluster Dice": ("cluster_dice", 2),
    "cluster sensitivity": ("cluster_recall", 2),
    "cluster precision": ("cluster_precision", 2),
    "NSD 1 mm": ("nsd_1_mm", 2),
    "clDice": ("cl_dice", 2),
    "HD95 (mm)": ("hd95_mm", 1),
}
AGREEMENT = {
    "volume ICC(2,1)": ("volume_mm3", "icc_2_1"),
    "volume r": ("volume_mm3", "pearson"),
    "count ICC(2,1)": ("count", "icc_2_1"),
    "count r": ("count", "pearson"),
}
_LATEX = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
}
_MARKDOWN = "\\`*_<>|"


def paper_rows(scores: Sequence[Row], agreement: Sequence[Row]) -> list[list[str]]:
    """The head and the rows of the table, from `score_rows` and `agreement_rows`, without empty columns."""
    means = {(row["tool"], row["region"], row["score"]): row for row in scores}
    agreements = {(row["tool"], row["region"], row["quantity"]): row for row in agreement}
    places = list(dict.fromkeys((row["tool"], row["region"]) for row in agreement))
    table = [["tool", "region", "scans", *MEANS, *AGREEMENT]]
    for tool, region in places:
        row = [shown(tool), "whole" if region == WHOLE else shown(region), str(agreements[tool, region, "count"]["n"])]
        for score, digits in MEANS.values():
            row.append(_mean_sd(means.get((tool, region, score)), digits))
        for quantity, statistic in AGREEMENT.values():
            value = agreements[tool, region, quantity]
            row.append(_with_interval(value[statistic], value[f"{statistic}_low"], value[f"{statistic}_high"]))
        table.append(row)
    kept = [i for i, column in enumerate(zip(*table[1:], strict=True)) if any(cell != "-" for cell in column)]
    return [[row[i] for i in kept] for row in table]


def markdown_table(rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> str:
    """A Markdown table of the rows, the first its head, and notes as a list."""
    cells = [[_markdown(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    cells.insert(1, ["-" * max(3, width) for width in widths])
    lines = ["| " + " | ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)) + " |" for row in cells]
    return "\n".join([*lines, *([""] if notes else []), *(f"- {note}" for note in notes)]) + "\n"


def latex_table(rows: Sequence[Sequence[str]], notes: Sequence[str] = (), caption: str = "", words: int = 1) -> str:
    """A LaTeX table of the rows, as wide as the text, for the packages booktabs and graphicx; \\input it.

    words: columns of text, to the left; the others are numbers.
    """
    cells = [[_latex(cell) for cell in row] for row in rows]
    # After the end of a row, [ and * would be read as its options.
    head, *body = [["{}" * row[0].startswith(("[", "*")) + row[0], *row[1:]] for row in cells]
    lines = [
        r"\begin{table}",
        r"  \centering",
        r"  \footnotesize",
        rf"  \caption{{{_latex(' '.join([caption, *notes]).strip())}}}",
        r"  \resizebox{\linewidth}{!}{%",
        rf"  \begin{{tabular}}{{{'l' * words}{'r' * (len(head) - words)}}}",
        r"    \toprule",
        f"    {' & '.join(head)} \\\\",
        r"    \midrule",
        *(f"    {' & '.join(row)} \\\\" for row in body),
        r"    \bottomrule",
        r"  \end{tabular}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def undefined_notes(empty: Sequence[Row]) -> list[str]:
    """What a reader must know of empty cases, from `empty_rows`: one note a tool and region that has some."""
    notes = []
    for row in empty:
        parts = [
            f"{row[key]} {what}"
            for key, what in (
                ("empty_in_both", "without PVS in either mask (left out of Dice)"),
                ("empty_prediction_only", "with none predicted (Dice 0)"),
                ("empty_reference_only", "with none in the reference (Dice 0)"),
            )
            if row[key]
        ]
        if parts:
            place = "whole" if row["region"] == WHOLE else shown(row["region"])
            notes.append(f"{shown(row['tool'])}, {place}: of {row['cases']} scans {', '.join(parts)}.")
    return notes


def _markdown(text: str) -> str:
    return "".join(f"\\{c}" if c in _MARKDOWN else c for c in text).replace("](", "]\\(")  # no link


def _latex(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)


def _mean_sd(row: Mapping[str, float] | None, digits: int) -> str:
    if row is None or math.isnan(row["mean"]):
        return "-"
    if math.isnan(row["sd"]):
        return f"{row['mean']:.{digits}f}"
    return f"{row['mean']:.{digits}f} ({row['sd']:.{digits}f})"


def _with_interval(value: float, low: float, high: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.2f}" if math.isnan(low) else f"{value:.2f} [{low:.2f}, {high:.2f}]"
