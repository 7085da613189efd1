"""Temperature: the one number that logits are divided by so that their probabilities are true (Guo et al. 2017)."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from mednext_jax.evaluate.thresholds.calibration import BINS, DOUBTFUL, Calibration

LIMIT = 16.0  # of a logit; beyond, a float32 probability is 1
WIDTH = 1 / 64  # of a bin of logits
COLDEST, HOTTEST = 0.1, 10.0
_CENTRES = np.arange(-LIMIT + WIDTH / 2, LIMIT, WIDTH)


@dataclasses.dataclass
class LogitCounts:
    """Voxels in narrow equal bins of their logit, and those of them that are PVS; those of several scans add up."""

    count: np.ndarray
    positive: np.ndarray

    @classmethod
    def of(cls, probability: np.ndarray, reference: np.ndarray) -> LogitCounts:
        """From probabilities (0 to 1) and a boolean mask of one shape."""
        bins = len(_CENTRES)
        logits = logit(probability.ravel())
        which = np.clip(((logits + LIMIT) / WIDTH).astype(np.int64), 0, bins - 1)
        return cls(np.bincount(which, minlength=bins), np.bincount(which, reference.ravel(), bins))

    def __add__(self, other: LogitCounts) -> LogitCounts:
        return LogitCounts(self.count + other.count, self.positive + other.positive)

    def fit(self) -> float:
        """The temperature of the least cross-entropy over the voxels, from `COLDEST` to `HOTTEST`.

        The cross-entropy is convex in 1 / temperature: where its slope is 0, it is least.
        """

        def slope(scale: float) -> float:
            return float((_CENTRES * (self.count * expit(scale * _CENTRES) - self.positive)).sum())

        low, high = 1 / HOTTEST, 1 / COLDEST
        if slope(low) >= 0:
            return HOTTEST
        if slope(high) <= 0:
            return COLDEST
        return 1 / float(brentq(slope, low, high, xtol=1e-6))

    def calibration(self, temperature: float = 1.0) -> Calibration:
        """The reliability curve of the probabilities at a temperature."""
        p = expit(_CENTRES / temperature)
        which = np.minimum((p * BINS).astype(np.int64), BINS - 1)
        doubtful = p >= DOUBTFUL
        sums = [
            np.bincount(which, weights, BINS)
            for kept in (1, doubtful)
            for weights in (kept * self.count, kept * self.count * p, kept * self.positive)
        ]
        return Calibration(*sums)


def logit(probability: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)), within `LIMIT`."""
    p = np.clip(probability.astype(np.float64), expit(-LIMIT), expit(LIMIT))
    return np.log(p) - np.log1p(-p)


def at_temperature(probability: float, temperature: float) -> float:
    """A probability as it is after its logit is divided by `temperature`."""
    return float(expit(logit(np.array(probability)) / temperature))
