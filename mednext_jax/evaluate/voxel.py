"""Overlap of two masks, voxel by voxel.

A ratio of nothing by nothing is undefined and NaN: Dice if both masks are empty (as nnU-Net), precision if the
prediction is, recall if the reference is. Means over cases leave NaN out and count what is left.
"""

from __future__ import annotations

import math

import numpy as np


def ratio(part: float, whole: float) -> float:
    """`part` / `whole`, NaN for 0 / 0."""
    return part / whole if whole else math.nan


def voxel_metrics(prediction: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Counts and ratios of two boolean masks of one shape: tp, fp, fn, dice, precision, recall."""
    both = int(np.count_nonzero(prediction & reference))
    predicted, true = int(np.count_nonzero(prediction)), int(np.count_nonzero(reference))
    return {
        "tp": both,
        "fp": predicted - both,
        "fn": true - both,
        "dice": ratio(2 * both, predicted + true),
        "precision": ratio(both, predicted),
        "recall": ratio(both, true),
    }
