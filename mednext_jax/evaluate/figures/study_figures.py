"""Figures of a cohort: scores of the tools, their volumes and counts against the reference, recall by size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mednext_jax.evaluate.figures.figure_file import figure, style, title_of
from mednext_jax.evaluate.scores_file import CaseScores
from mednext_jax.evaluate.statistics.agreement import FEWEST, BlandAltman
from mednext_jax.evaluate.study import Row
from mednext_jax.measure.regions import WHOLE

SHOWN = {
    "Dice": "dice",
    "sensitivity": "recall",
    "precision": "precision",
    "cluster Dice": "cluster_dice",
    "cluster sens.": "cluster_recall",
    "cluster prec.": "cluster_precision",
    "NSD 1 mm": "nsd_1_mm",
    "clDice": "cl_dice",
}
CLOUD = 500  # more points than that are an image in an SVG
TITLES = {"volume_mm3": ("PVS volume", " (mm³)"), "count": ("PVS count", "")}


def draw_scores(folder: Path, tools: Mapping[str, CaseScores], scores: Sequence[Row]) -> None:
    """scores: a point for each scan and tool, and the mean with its interval from `score_rows`, whole scan."""
    means = {(row["tool"], row["score"]): row for row in scores if row["region"] == WHOLE}
    with figure(folder, "scores", 1, 1, (9, 4)) as (_, axes):
        axis = axes[0, 0]
        for number, (tool, cases) in enumerate(tools.items()):
            look = style(number)
            at = (number - (len(tools) - 1) / 2) * 0.8 / max(2, len(tools))
            for place, score in enumerate(SHOWN.values()):
                values = np.array([case[WHOLE].get(score, math.nan) for case in cases.values()], float)
                values = values[~np.isnan(values)]
                if not len(values):
                    continue
                spread = np.linspace(-0.06, 0.06, len(values)) if len(values) > 1 else np.zeros(1)
                axis.plot(
                    place + at + spread,
                    values,
                    look["marker"],
                    color=look["color"],
                    ms=3,
                    alpha=0.45,
                    mew=0,
                    rasterized=len(values) > CLOUD,
                )
                row = means[tool, score]
                error = np.nan_to_num([[row["mean"] - row["low"]], [row["high"] - row["mean"]]])
                axis.errorbar(
                    place + at,
                    row["mean"],
                    np.maximum(error, 0),
                    fmt=look["marker"],
                    color=look["color"],
                    ms=7,
                    mec="black",
                    mew=0.7,
                    capsize=3,
                    label=title_of(tool) if score == "dice" else None,
                )
        axis.set_xticks(range(len(SHOWN)), list(SHOWN))
        axis.set_ylim(-0.03, 1.03)
        axis.set_ylabel("score of a scan; mean, 95 % interval")
        axis.grid(axis="y", alpha=0.3)
        axis.legend(loc="lower right", frameon=False)


def draw_agreement(folder: Path, tools: Mapping[str, CaseScores], quantity: str) -> None:
    """volume or count: each tool against the reference, above; Bland and Altman's plot, below.

    The bars at its right edge are the 95 % intervals of the bias and of the limits.
    """
    title, unit = TITLES[quantity]
    pairs = {
        tool: np.array([(c[WHOLE][quantity], c[WHOLE][f"reference_{quantity}"]) for c in cases.values()], float)
        for tool, cases in tools.items()
    }
    highest = max(1.0, *(float(pair.max()) for pair in pairs.values())) * 1.05
    width = 3.6 * max(2, len(pairs))
    with figure(folder, f"bland_altman_{quantity.partition('_')[0]}", 2, len(pairs), (width, 6.6)) as (_, axes):
        limits = {tool: BlandAltman.of(pair[:, 0], pair[:, 1]) for tool, pair in pairs.items()}
        for number, (tool, pair) in enumerate(pairs.items()):
            look = style(number)
            point = {"color": look["color"], "marker": look["marker"], "linestyle": "", "ms": 4, "alpha": 0.8}
            point["rasterized"] = len(pair) > CLOUD
            above, below = axes[:, number]
            above.plot([0, highest], [0, highest], color="grey", lw=1, label="equal")
            above.plot(pair[:, 1], pair[:, 0], **point)
            above.set(xlim=(0, highest), ylim=(0, highest), aspect="equal", title=title_of(tool))
            above.set_xlabel(f"{title} of the reference{unit}")
            above.set_ylabel(f"{title}{unit}")
            below.plot(pair.mean(1), pair[:, 0] - pair[:, 1], **point)
            below.axhline(0, color="grey", lw=1)
            found = limits[tool]
            if found.n >= FEWEST:
                for value, (low, high), line, name, at in (
                    (found.bias, found.bias_interval, "-", "bias", 1.0),
                    (found.lower, found.lower_interval, "--", "−1.96 SD", 1.012),
                    (found.upper, found.upper_interval, "--", "+1.96 SD", 1.024),
                ):
                    below.axhline(value, color="black", lw=1, linestyle=line)
                    edge = below.get_yaxis_transform()
                    below.plot([at, at], [low, high], "_-", color="black", lw=1.5, ms=6, transform=edge, clip_on=False)
                    below.text(1.045, value, f"{name}\n{value:.4g}", transform=edge, va="center", fontsize=7)
            below.set_xlabel(f"mean of both{unit}")
            below.set_ylabel(f"tool − reference{unit}")
        same = [axis.get_ylim() for axis in axes[1]]
        for axis in axes[1]:
            axis.set_ylim(min(low for low, _ in same), max(high for _, high in same))


def draw_recall_by_size(folder: Path, scores: Sequence[Row]) -> None:
    """recall_by_size: the part of the reference clusters that is found, by their volume, whole scan, with intervals."""
    rows = [row for row in scores if row["region"] == WHOLE and row["score"].startswith("recall_")]
    bins = list(dict.fromkeys(row["score"] for row in rows))
    with figure(folder, "recall_by_size", 1, 1, (5, 3.6)) as (_, axes):
        axis = axes[0, 0]
        for number, tool in enumerate(dict.fromkeys(row["tool"] for row in rows)):
            mine = {row["score"]: row for row in rows if row["tool"] == tool}
            mean, low, high = (np.array([mine[name][key] for name in bins], float) for key in ("mean", "low", "high"))
            error = np.nan_to_num(np.stack([mean - low, high - mean]))
            at = np.arange(len(bins)) + 0.06 * number
            axis.errorbar(at, mean, np.maximum(error, 0), capsize=3, label=title_of(tool), **style(number))
        axis.set_xticks(range(len(bins)), [_size(name) for name in bins])
        axis.set_ylim(-0.03, 1.03)
        axis.set_xlabel("volume of the reference cluster (mm³)")
        axis.set_ylabel("part found (any overlap)")
        axis.grid(axis="y", alpha=0.3)
        axis.legend(frameon=False)


def _size(score: str) -> str:
    parts = score.removeprefix("recall_").removesuffix("_mm3").split("_")
    return f"≥ {parts[1]}" if parts[0] == "from" else f"{parts[0]}–{parts[2]}"
