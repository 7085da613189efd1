"""Scores of many scans: means over cases, and how well volumes and counts agree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from mednext_jax.evaluate.case import Scores

AVERAGED = (
    *("dice", "precision", "recall", "cluster_dice", "cluster_precision", "cluster_recall"),
    *("valdo_dice", "valdo_precision", "valdo_recall"),
    *("one_to_one_dice", "one_to_one_precision", "one_to_one_recall"),
)


def summarise(scores: Sequence[Scores]) -> dict[str, Any]:
    """Summary of one region's scores over cases.

    For each ratio its mean, standard deviation (n - 1), median and n, the cases where it is defined (not 0 / 0);
    for volume and count the Pearson and Spearman correlation with the reference, and the mean difference
    prediction - reference; sums of the other counts. NaN where the cases do not suffice.
    """
    summary: dict[str, Any] = {"cases": len(scores)}
    summary["empty_in_both"] = sum(s["count"] == 0 and s["reference_count"] == 0 for s in scores)
    for name in scores[0]:
        if not all(name in s for s in scores):  # a fold that another release scored has fewer
            continue
        values = np.array([s[name] for s in scores], float)
        if name in AVERAGED:
            summary[name] = _distribution(values[~np.isnan(values)])
        elif name.startswith(("found_", "reference_count_")):
            summary[name] = int(values.sum())
    for name in ("volume_mm3", "count"):
        pair = [np.array([s[key] for s in scores], float) for key in (name, f"reference_{name}")]
        summary[name] = {
            "mean": float(pair[0].mean()),
            "reference_mean": float(pair[1].mean()),
            "mean_difference": float((pair[0] - pair[1]).mean()),
            "pearson": _correlation(stats.pearsonr, *pair),
            "spearman": _correlation(stats.spearmanr, *pair),
        }
    return summary


def by_region(cases: Sequence[Mapping[str, Scores]]) -> dict[str, dict[str, Any]]:
    """Region -> `summarise` over cases of {region: scores}; every case has the same regions."""
    return {region: summarise([scores[region] for scores in cases]) for region in cases[0]}


def _distribution(values: np.ndarray) -> dict[str, float]:
    return {
        "mean": float(values.mean()) if len(values) else math.nan,
        "sd": float(values.std(ddof=1)) if len(values) > 1 else math.nan,
        "median": float(np.median(values)) if len(values) else math.nan,
        "n": len(values),
    }


def _correlation(statistic, a: np.ndarray, b: np.ndarray) -> float:
    """NaN for fewer than three cases or a constant: a line through two points says nothing."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(statistic(a, b).statistic)
