"""Paired comparison of tools on the same scans: Wilcoxon's signed-rank test, corrected after Holm."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats


def wilcoxon(first: np.ndarray, second: np.ndarray) -> float:
    """The two-sided p of Wilcoxon's signed-rank test on pairs (subjects,); pairs without a difference are dropped.

    The test of `scipy.stats.wilcoxon`: exact for up to 50 pairs without ties and zeros. 1 if no pair differs, NaN
    without pairs.
    """
    difference = np.asarray(first, float) - np.asarray(second, float)
    if not len(difference):
        return math.nan
    if not difference.any():
        return 1.0
    return float(stats.wilcoxon(difference).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for their number after Holm (1979), in their order; NaN stays and does not count."""
    p = np.asarray(p_values, float)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]
    corrected = p.copy()
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return corrected.tolist()
