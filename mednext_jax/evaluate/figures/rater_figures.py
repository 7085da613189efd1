"""Figures of raters: the Dice of each pair of masks, and tools beside the raters' own agreement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mednext_jax.evaluate.figures.figure_file import figure, style, title_of
from mednext_jax.evaluate.study import Row
from mednext_jax.measure.regions import WHOLE


def draw_rater_matrix(folder: Path, rows: Sequence[Row]) -> None:
    """raters: mean voxel and cluster Dice of each pair over the whole scans, from `pair_rows`."""
    rows = [row for row in rows if row["region"] == WHOLE]
    names = list(dict.fromkeys([row["first"] for row in rows] + [row["second"] for row in rows]))
    side = max(3.2, 0.9 + 0.62 * len(names))
    with figure(folder, "raters", 1, 2, (2 * side, side + 0.6)) as (_, axes):
        for axis, score, title in zip(axes[0], ("dice", "cluster_dice"), ("voxel Dice", "cluster Dice"), strict=True):
            table = np.full((len(names), len(names)), math.nan)
            for row in rows:
                i, j = names.index(row["first"]), names.index(row["second"])
                table[i, j] = table[j, i] = row[f"{score}_mean"]
            axis.imshow(table, cmap="Greys", vmin=0, vmax=1)
            for i, j in np.argwhere(~np.isnan(table)):
                colour = "white" if table[i, j] > 0.55 else "black"
                axis.text(j, i, f"{table[i, j]:.2f}", ha="center", va="center", color=colour, fontsize=8)
            labels = [title_of(name) for name in names]
            axis.set_xticks(range(len(names)), labels, rotation=40, ha="right")
            axis.set_yticks(range(len(names)), labels)
            axis.set_title(f"{title}, mean over scans")


def draw_second_rater(folder: Path, rows: Sequence[Row]) -> None:
    """second_rater: the difference of a tool's agreement from a rater's, with intervals, from `second_rater_rows`."""
    titles = {"dice": "voxel Dice", "cluster_dice": "cluster Dice"}
    with figure(folder, "second_rater", 1, 1, (6.4, 1.2 + 0.34 * len(rows))) as (_, axes):
        axis = axes[0, 0]
        tools = list(dict.fromkeys(row["tool"] for row in rows))
        for place, row in enumerate(rows):
            error = np.nan_to_num([[row["difference"] - row["low"]], [row["high"] - row["difference"]]])
            look = style(tools.index(row["tool"])) | {"linestyle": ""}
            axis.errorbar(row["difference"], -place, xerr=np.maximum(error, 0), capsize=3, **look)
        axis.axvline(0, color="grey", lw=1)
        labels = [f"{title_of(row['tool'])}, {titles[row['score']]}, {row['against']}" for row in rows]
        places = ["" if row["region"] == WHOLE else f"{title_of(row['region'])}: " for row in rows]
        labels = [place + label for place, label in zip(places, labels, strict=True)]
        axis.set_yticks([-place for place in range(len(rows))], labels)
        axis.set_xlabel("tool − rater: right of 0, the tool agrees better than a rater does")
        axis.grid(axis="x", alpha=0.3)
