"""Scores against the threshold of a probability map, on validation scans, and the choice of one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from mednext_jax.evaluate.cluster import Overlaps, any_overlap
from mednext_jax.evaluate.study import Row
from mednext_jax.evaluate.voxel import ratio, voxel_metrics
from mednext_jax.io.geometry import bounding_box
from mednext_jax.measure.clusters import label_clusters

# The outer ones for networks whose probabilities are far from true.
THRESHOLDS = (0.01, 0.02, *(round(0.05 * i, 2) for i in range(1, 20)), 0.98, 0.99)
CRITERIA = ("dice", "cluster_dice")


@dataclasses.dataclass(frozen=True)
class ScanSweep:
    """Counts of one scan at each of `THRESHOLDS`, of voxels and of clusters (`any_overlap`)."""

    voxels: tuple[dict[str, float], ...]
    clusters: tuple[dict[str, float], ...]

    @classmethod
    def of(cls, probability: np.ndarray, reference: np.ndarray) -> ScanSweep:
        """From probabilities and a boolean mask of one shape (x, y, z)."""
        box = bounding_box((probability > THRESHOLDS[0]) | reference) or (slice(0, 1),) * 3
        probability, reference = probability[box], reference[box]
        true = label_clusters(reference)[0]
        voxels, clusters = [], []
        for threshold in THRESHOLDS:
            predicted = probability > threshold
            voxels.append(voxel_metrics(predicted, reference))
            clusters.append(any_overlap(Overlaps.of(label_clusters(predicted)[0], true)))
        return cls(tuple(voxels), tuple(clusters))


def sweep_rows(scans: Sequence[ScanSweep]) -> list[Row]:
    """A row for each threshold.

    dice, precision, recall, cluster_*: means over the scans where they are defined. The free-response curve (FROC):
    sensitivity, the part of all reference clusters that is found, against false_positives, false clusters a scan.
    """
    rows: list[Row] = []
    for i, threshold in enumerate(THRESHOLDS):
        row: Row = {"threshold": threshold, "scans": len(scans)}
        for prefix, found in (("", [s.voxels[i] for s in scans]), ("cluster_", [s.clusters[i] for s in scans])):
            for name in ("dice", "precision", "recall"):
                values = [scores[name] for scores in found if not math.isnan(scores[name])]
                row[prefix + name] = float(np.mean(values)) if values else math.nan
        clusters = [scan.clusters[i] for scan in scans]
        tp, fn, fp = (int(sum(scores[name] for scores in clusters)) for name in ("tp", "fn", "fp"))
        rows.append(row | {"sensitivity": ratio(tp, tp + fn), "false_positives": ratio(fp, len(scans))})
    return rows


def best_threshold(rows: Sequence[Row], criterion: str) -> float | None:
    """The threshold of the highest `criterion`, of equals the one nearest to 0.5; None if it is undefined at all."""
    defined = [row for row in rows if not math.isnan(row[criterion])]
    if not defined:
        return None
    best = max(defined, key=lambda row: (row[criterion], -abs(row["threshold"] - 0.5)))
    return float(best["threshold"])
