"""Pictures of what `bench_real` measures: slices with contours, and curves over thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from mednext_jax.io.atomic import atomic_file
from mednext_jax.simulate.painting import PaintedScan
from tools.real_measures import Found, Point, Tissue

matplotlib.use("Agg")
SLICES = 6
_TISSUE = "#d8c840"


def draw_scan(
    path: Path, image: np.ndarray, painted: PaintedScan, tissue: Tissue, found: Found | None, hits: np.ndarray | None
) -> None:
    """Axial slices of a scan (x, y, z, last axis up): above untouched with the clusters, below painted with the tubes.

    found: None for no clusters. hits: whether each tube was found; None if that is not known (white).
    """
    labels = np.zeros(image.shape, np.int32) if found is None else found.labels
    levels = _levels(tissue, labels)
    figure = Figure(figsize=(4 * len(levels), 9.6), facecolor="black")
    axes = figure.subplots(2, len(levels), squeeze=False)
    top = np.percentile(image[image > 0], 99.5)
    owner = np.zeros(image.size, np.int32)
    for number, (cells, share) in enumerate(painted.touched):
        owner[cells[share >= 0.25]] = number + 1
    owner = owner.reshape(image.shape)
    kinds = {} if found is None else _kinds(found)
    for k, z in enumerate(levels):
        for row, array in enumerate((image, painted.image)):
            axis = axes[row, k]
            axis.imshow(array[:, :, z].T, origin="lower", cmap="gray", vmin=0, vmax=top, interpolation="nearest")
            axis.axis("off")
            _outline(axis, tissue.inside[:, :, z], _TISSUE, 0.35)
        for colour, chosen in kinds.items():
            _outline(axes[0, k], np.isin(labels[:, :, z], np.flatnonzero(chosen) + 1), colour, 1.1)
        tubes = {"white": np.ones(len(painted.placed), bool)} if hits is None else {"#30e060": hits, "#ff40ff": ~hits}
        for colour, chosen in tubes.items():
            _outline(axes[1, k], np.isin(owner[:, :, z], np.flatnonzero(chosen) + 1), colour, 0.8)
    figure.subplots_adjust(0, 0, 1, 1, 0.01, 0.01)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=80, format="png", facecolor="black")


def draw_curves(path: Path, curves: Mapping[str, Sequence[Point]]) -> None:
    """Painted recall over the clusters of the untouched scan, and the share of these that is misplaced."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    axes = figure.subplots(1, 2)
    for name, points in curves.items():
        kept = [point for point in points if point.count]
        count = [point.count for point in kept]
        axes[0].plot(count, [point.recalls["recall"] for point in kept], ".-", label=name)
        axes[1].plot(count, [point.shares["misplaced"] for point in kept], ".-", label=name)
    for axis, title in zip(axes, ("painted recall", "misplaced clusters"), strict=True):
        axis.set(xscale="log", ylim=(0, 1), xlabel="clusters in the untouched scan", ylabel=title)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")


def _kinds(found: Found) -> dict[str, np.ndarray]:
    return {
        "#30e060": found.deep & ~found.misplaced,
        "#ff9020": ~found.deep & ~found.misplaced,
        "#ff3030": found.misplaced,
    }


def _levels(tissue: Tissue, labels: np.ndarray) -> list[int]:
    """The axial slice with most clusters of each of some slabs between the lowest and highest of white matter."""
    heights = np.flatnonzero(tissue.deep.any((0, 1)))
    if not len(heights):
        return [labels.shape[2] // 2]
    cut = np.array([len(np.unique(labels[:, :, z])) for z in range(labels.shape[2])])
    edges = np.linspace(heights[0] + 8, heights[-1] - 4, SLICES + 1).round().astype(int)
    return [int(low + cut[low : max(high, low + 1)].argmax()) for low, high in zip(edges[:-1], edges[1:], strict=True)]


def _outline(axis: Any, mask: np.ndarray, colour: str, width: float) -> None:
    if mask.any():
        axis.contour(mask.T, [0.5], colors=colour, linewidths=width)
