"""Kappa against scikit-learn and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mednext_jax.evaluate.statistics.kappa import weighted_kappa

pytestmark = pytest.mark.core


@pytest.mark.parametrize("weights", ["none", "linear", "quadratic"])
def test_kappa_is_scikit_learn_s(weights):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    first = rng.integers(0, 5, 40)
    second = np.clip(first + rng.integers(-1, 3, 40), 0, 4)
    expected = metrics.cohen_kappa_score(first, second, weights=None if weights == "none" else weights)
    assert weighted_kappa(first, second, weights, 5) == pytest.approx(expected, abs=1e-12)
    assert weighted_kappa(first, second, weights, 11) == pytest.approx(expected, abs=1e-12)  # grades that none gave


def test_kappa_by_hand():
    # 4 scans, agreement in 3; chance agreement (2 * 3 + 2 * 1) / 16 = 1/2
    first, second = np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1])
    for weights in ("none", "linear", "quadratic"):
        assert weighted_kappa(first, second, weights, 2) == pytest.approx((3 / 4 - 1 / 2) / (1 / 2))
    assert weighted_kappa(np.array([0, 1, 4]), np.array([0, 1, 4]), "quadratic", 5) == 1


def test_kappa_of_one_grade_or_nothing_is_undefined():
    assert math.isnan(weighted_kappa(np.array([2, 2]), np.array([2, 2]), "linear", 5))
    assert math.isnan(weighted_kappa(np.zeros(0), np.zeros(0), "linear", 5))
