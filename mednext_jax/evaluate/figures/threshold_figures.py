"""Figures of probability maps: scores against the threshold, the free-response curve, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mednext_jax.evaluate.figures.figure_file import figure, style, title_of
from mednext_jax.evaluate.study import Row
from mednext_jax.evaluate.thresholds.calibration import Calibration

CURVES = {
    "Dice": "dice",
    "sensitivity": "recall",
    "precision": "precision",
    "cluster Dice": "cluster_dice",
    "cluster sensitivity": "cluster_recall",
    "cluster precision": "cluster_precision",
}


def draw_sweep(folder: Path, sweeps: Mapping[str, Sequence[Row]], best: Mapping[str, float | None]) -> None:
    """threshold_sweep: scores against the threshold, a panel for each tool; the chosen threshold is a line."""
    with figure(folder, "threshold_sweep", 1, len(sweeps), (5.5 * len(sweeps), 4)) as (_, axes):
        for axis, (tool, rows) in zip(axes[0], sweeps.items(), strict=True):
            at = [row["threshold"] for row in rows]
            for number, (title, score) in enumerate(CURVES.items()):
                axis.plot(at, [row[score] for row in rows], ms=3, lw=1.2, label=title, **style(number))
            if best[tool] is not None:
                axis.axvline(best[tool], color="black", lw=1, linestyle=":", label=f"chosen: {best[tool]:g}")
            axis.set(xlim=(0, 1), ylim=(-0.03, 1.03), xlabel="threshold of the probability", title=title_of(tool))
            axis.set_ylabel("mean over scans")
            axis.grid(alpha=0.3)
            axis.legend(frameon=False, fontsize=7)


def draw_froc(folder: Path, sweeps: Mapping[str, Sequence[Row]]) -> None:
    """froc: the part of the reference clusters found against false clusters a scan, a line for each tool."""
    with figure(folder, "froc", 1, 1, (5, 4)) as (_, axes):
        axis = axes[0, 0]
        for number, (tool, rows) in enumerate(sweeps.items()):
            false, found = ([row[name] for row in rows] for name in ("false_positives", "sensitivity"))
            axis.plot(false, found, ms=4, lw=1.2, label=title_of(tool), **style(number))
            middle = min(range(len(rows)), key=lambda i: abs(rows[i]["threshold"] - 0.5))
            axis.annotate(
                "0.5", (false[middle], found[middle]), xytext=(4, -10), textcoords="offset points", fontsize=7
            )
        least = min(row["false_positives"] for rows in sweeps.values() for row in rows)
        if least > 0:
            axis.set_xscale("log")
        else:
            axis.set_xscale("symlog", linthresh=1)
            axis.set_xlim(left=0)
        axis.set_ylim(-0.03, 1.03)
        axis.set_xlabel("false clusters a scan")
        axis.set_ylabel("part of the reference clusters found")
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)


def draw_calibration(folder: Path, calibrations: Mapping[str, Calibration]) -> None:
    """calibration: the observed part of PVS voxels against the probability; below, how many voxels there are."""
    with figure(folder, "calibration", 2, 1, (4.6, 6)) as (_, axes):
        curve, voxels = axes[:, 0]
        curve.plot([0, 1], [0, 1], color="grey", lw=1, label="true probabilities")
        for number, (tool, calibration) in enumerate(calibrations.items()):
            rows = [row for row in calibration.curve() if row["voxels"]]
            label = f"{title_of(tool)}, ECE {calibration.doubtful_error:.3f}"
            at = [row["mean_probability"] for row in rows]
            curve.plot(at, [row["observed"] for row in rows], ms=4, lw=1.2, label=label, **style(number))
            edges = np.append([row["low"] for row in calibration.curve()], 1)
            voxels.stairs(calibration.count, edges, color=style(number)["color"], linestyle=style(number)["linestyle"])
        curve.set(xlim=(0, 1), ylim=(0, 1), ylabel="observed part that is PVS")
        curve.legend(frameon=False, fontsize=7, title="ECE of voxels from 0.01 on", title_fontsize=7)
        voxels.set(xlim=(0, 1), yscale="log", xlabel="predicted probability", ylabel="voxels")
        for axis in (curve, voxels):
            axis.grid(alpha=0.3)
