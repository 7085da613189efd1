"""Calibration and the precision-recall area against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mednext_jax.evaluate.thresholds.calibration import DOUBTFUL, Calibration, average_precision

pytestmark = pytest.mark.core


def maps(seed, shape=(12, 13, 14)):
    """Probabilities, many of them 0 or shared, and a mask that is true about half as often as they say."""
    rng = np.random.default_rng(seed)
    p = np.round(np.clip(rng.random(shape) * 1.6 - 0.6, 0, 1), 3).astype(np.float32)
    return p, rng.random(shape) < 0.5 * p + 0.02


def test_curve_and_error_are_scikit_learn_s():
    calibration_curve = pytest.importorskip("sklearn.calibration").calibration_curve
    p, truth = maps(0)
    p = np.minimum(p + 1e-4, 1).astype(np.float32)  # off the bins' edges, which scikit-learn gives to the bin below
    found = Calibration.of(p, truth)
    rows = [row for row in found.curve() if row["voxels"]]
    observed, predicted = calibration_curve(truth.ravel(), p.ravel(), n_bins=20)
    assert [row["observed"] for row in rows] == pytest.approx(observed.tolist(), abs=1e-6)
    assert [row["mean_probability"] for row in rows] == pytest.approx(predicted.tolist(), abs=1e-6)
    weights = np.histogram(p, 20, (0, 1))[0]
    expected = (weights[weights > 0] * np.abs(observed - predicted)).sum() / p.size
    assert found.error == pytest.approx(expected, abs=1e-6) and 0.05 < found.error < 0.5
    doubtful = p >= DOUBTFUL
    assert found.doubtful_error == pytest.approx(Calibration.of(p[doubtful], truth[doubtful]).error, abs=1e-6)
    assert found.doubtful_error > found.error


def test_scans_add_up():
    (a, b), (c, d) = maps(1), maps(2)
    both = Calibration.of(np.stack([a, c]), np.stack([b, d]))
    summed = Calibration.of(a, b) + Calibration.of(c, d)
    assert summed.error == pytest.approx(both.error) and summed.doubtful_error == pytest.approx(both.doubtful_error)


def test_true_probabilities_have_no_error_and_no_voxels_none():
    p, truth = np.array([0.5, 0.5, 0.0, 1.0]), np.array([True, False, False, True])
    assert Calibration.of(p, truth).error == 0
    assert math.isnan(Calibration.of(np.zeros(5), np.zeros(5, bool)).doubtful_error)
    edge = Calibration.of(np.array([1.0, 0.95, 0.05]), np.array([True, True, False]))
    assert edge.count[19] == 2 and edge.count[1] == 1


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_is_scikit_learn_s(seed):
    score = pytest.importorskip("sklearn.metrics").average_precision_score
    p, truth = maps(seed)
    assert average_precision(p, truth) == pytest.approx(score(truth.ravel(), p.ravel()), abs=1e-6)


def test_average_precision_by_hand():
    p, truth = np.array([0.9, 0.8, 0.7, 0.0]), np.array([True, False, True, True])
    assert average_precision(p, truth) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert average_precision(np.zeros(4), truth) == 0.75
    assert average_precision(np.full(4, 0.3), truth) == 0.75
    assert math.isnan(average_precision(p, np.zeros(4, bool)))
