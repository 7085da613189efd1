"""Are the probabilities true: calibration curve, expected calibration error, area under precision against recall."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from mednext_jax.evaluate.voxel import ratio

BINS = 20
# Nearly all voxels of a brain are surely background; an error over all of them says little of the others.
DOUBTFUL = 0.01


@dataclasses.dataclass
class Calibration:
    """Sums over voxels in equal bins of probability; those of several scans add up.

    count, probability, positive (bins,): voxels, the sum of their probabilities, those that are PVS. The same for the
    voxels of probability `DOUBTFUL` or more in the `doubtful` sums.
    """

    count: np.ndarray
    probability: np.ndarray
    positive: np.ndarray
    doubtful_count: np.ndarray
    doubtful_probability: np.ndarray
    doubtful_positive: np.ndarray

    @classmethod
    def of(cls, probability: np.ndarray, reference: np.ndarray, bins: int = BINS) -> Calibration:
        """From probabilities (0 to 1) and a boolean mask of one shape; a bin holds its lower edge, the last one 1."""
        p, truth = probability.ravel(), reference.ravel()
        which = np.minimum((p * bins).astype(np.int64), bins - 1)
        sums = []
        for chosen in (slice(None), p >= DOUBTFUL):
            b = which[chosen]
            sums += [
                np.bincount(b, minlength=bins),
                np.bincount(b, p[chosen], bins),
                np.bincount(b, truth[chosen], bins),
            ]
        return cls(*sums)

    def __add__(self, other: Calibration) -> Calibration:
        names = [field.name for field in dataclasses.fields(self)]
        return Calibration(*(getattr(self, name) + getattr(other, name) for name in names))

    def curve(self) -> list[dict[str, float]]:
        """Bins: low, high, voxels, mean_probability and observed, the part that is PVS (NaN without voxels)."""
        bins = len(self.count)
        return [
            {
                "low": i / bins,
                "high": (i + 1) / bins,
                "voxels": int(self.count[i]),
                "mean_probability": ratio(float(self.probability[i]), int(self.count[i])),
                "observed": ratio(float(self.positive[i]), int(self.count[i])),
            }
            for i in range(bins)
        ]

    @property
    def error(self) -> float:
        """Expected calibration error over all voxels: the mean of |observed - mean probability|, weighted by voxels."""
        return ratio(float(np.abs(self.positive - self.probability).sum()), int(self.count.sum()))

    @property
    def doubtful_error(self) -> float:
        """The expected error over the voxels of probability `DOUBTFUL` or more."""
        found = np.abs(self.doubtful_positive - self.doubtful_probability).sum()
        return ratio(float(found), int(self.doubtful_count.sum()))


def average_precision(probability: np.ndarray, reference: np.ndarray) -> float:
    """Area under the precision-recall curve over voxels, as a sum of steps; NaN without a reference voxel.

    That of scikit-learn's `average_precision_score`; DoRA-PVS's AUPRC.
    """
    p, truth = probability.ravel(), reference.ravel()
    positives = int(np.count_nonzero(truth))
    if not positives:
        return math.nan
    likely = p > 0  # the others are one last step
    order = np.argsort(-p[likely], kind="stable")
    ranked, hits = p[likely][order], np.cumsum(truth[likely][order])
    ends = np.flatnonzero(np.append(np.diff(ranked) != 0, True)) if len(ranked) else np.zeros(0, int)
    recall = np.append(hits[ends], positives) / positives
    precision = np.append(hits[ends] / (ends + 1), positives / len(p))
    return float((np.diff(recall, prepend=0) * precision).sum())
