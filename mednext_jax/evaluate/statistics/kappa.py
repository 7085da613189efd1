"""Cohen's kappa of two raters' scores, plain and weighted."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from mednext_jax.evaluate.voxel import ratio

Weights = Literal["none", "linear", "quadratic"]


def weighted_kappa(first: np.ndarray, second: np.ndarray, weights: Weights, grades: int) -> float:
    """Kappa (Cohen 1968) of two raters' whole scores (subjects,), each from 0 to `grades` - 1.

    A disagreement of d grades weighs 1 ("none"), d ("linear") or d^2 ("quadratic"). NaN if no disagreement is possible:
    no subject, or one grade for all by both.
    """
    first, second = np.asarray(first, int), np.asarray(second, int)
    if not len(first):
        return math.nan
    apart = np.abs(np.subtract.outer(np.arange(grades), np.arange(grades)))
    weight = {"none": (apart > 0).astype(float), "linear": apart.astype(float), "quadratic": apart.astype(float) ** 2}
    table = np.zeros((grades, grades))
    np.add.at(table, (first, second), 1)
    expected = np.outer(table.sum(1), table.sum(0)) / len(first)
    disagreement = ratio(float((weight[weights] * table).sum()), float((weight[weights] * expected).sum()))
    return 1 - disagreement
