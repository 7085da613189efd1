"""Percentile bootstrap over subjects."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

RESAMPLES, SEED, COVERAGE = 2000, 0, 0.95
# Resamples in which a correlation is undefined (one subject drawn again and again) are left out, up to this part.
UNDEFINED = 0.05
_AT_ONCE = 2**22  # values of one piece of work: 32 MiB


def interval(
    statistic: Callable[[np.ndarray], np.ndarray], values: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED
) -> tuple[float, float]:
    """The 95 % interval (low, high) of `statistic` over subjects: percentiles 2.5 and 97.5 of its resampled values.

    values (subjects, ...): what is drawn together, a row per subject. `statistic` maps resamples (b, subjects, ...) to
    (b,). NaN for fewer than two subjects, or if more than `UNDEFINED` of the resamples give NaN. As
    `scipy.stats.bootstrap(method="percentile")` with the same generator.
    """
    values = np.asarray(values, float)
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    generator = np.random.default_rng(seed)
    batch = max(1, _AT_ONCE // max(1, values.size))
    drawn = [
        statistic(values[generator.integers(0, n, (min(batch, resamples - start), n))])
        for start in range(0, resamples, batch)
    ]
    found = np.concatenate(drawn)
    found = found[~np.isnan(found)]
    if len(found) < (1 - UNDEFINED) * resamples:
        return math.nan, math.nan
    low, high = np.percentile(found, [50 * (1 - COVERAGE), 50 * (1 + COVERAGE)])
    return float(low), float(high)


def interval_of_mean(values: np.ndarray) -> tuple[float, float]:
    """The interval of the mean of values (subjects,) without NaN."""
    return interval(lambda drawn: drawn.mean(-1), values)
