"""The temperature of networks that are too sure or not sure enough by a known factor."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit

from mednext_jax.evaluate.thresholds.calibration import Calibration
from mednext_jax.evaluate.thresholds.temperature import COLDEST, HOTTEST, LogitCounts, at_temperature

pytestmark = pytest.mark.core


def voxels(factor, n=200_000):
    """Probabilities whose logits are `factor` times the true ones, and a mask that is true as often as those say."""
    rng = np.random.default_rng(0)
    true = rng.normal(-2, 1.5, n)
    return expit(factor * true), rng.random(n) < expit(true)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_logits_that_are_too_large_by_a_factor_are_divided_by_it(factor):
    assert LogitCounts.of(*voxels(factor)).fit() == pytest.approx(factor, rel=0.02)


def test_the_fit_is_the_least_cross_entropy():
    p, truth = voxels(1.7, 5000)
    z = np.log(p / (1 - p))
    loss = lambda t: -np.where(truth, np.log(expit(z / t)), np.log(expit(-z / t))).mean()  # noqa: E731
    assert LogitCounts.of(p, truth).fit() == pytest.approx(minimize_scalar(loss, bounds=(0.2, 9)).x, rel=1e-3)


def test_scans_add_up():
    p, truth = voxels(2.0, 4000)
    both = LogitCounts.of(p, truth)
    parts = LogitCounts.of(p[:1500], truth[:1500]) + LogitCounts.of(p[1500:], truth[1500:])
    assert parts.fit() == both.fit()


def test_the_reliability_after_the_fit_is_that_of_true_probabilities():
    p, truth = voxels(2.0)
    counts = LogitCounts.of(p, truth)
    before, after = counts.calibration(), counts.calibration(counts.fit())
    exact = Calibration.of(p, truth)
    assert before.error == pytest.approx(exact.error, rel=0.02)
    assert before.doubtful_error == pytest.approx(exact.doubtful_error, rel=0.02)
    assert before.count.sum() == after.count.sum() == p.size and before.positive.sum() == truth.sum()
    assert after.doubtful_error < 0.1 * before.doubtful_error


def test_where_no_temperature_is_least_the_outermost_is_taken():
    sure = np.array([0.9, 0.1])
    assert LogitCounts.of(sure, np.array([True, False])).fit() == COLDEST
    assert LogitCounts.of(sure, np.array([False, True])).fit() == HOTTEST
    assert LogitCounts.of(np.array([0.0, 1.0]), np.array([False, True])).count.sum() == 2


def test_a_probability_at_a_temperature():
    assert at_temperature(0.9, 2.0) == pytest.approx(0.75) and at_temperature(0.5, 3.0) == pytest.approx(0.5)
