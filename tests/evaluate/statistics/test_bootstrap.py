"""The bootstrap against SciPy's, draw for draw."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy import stats

from mednext_jax.evaluate.statistics import bootstrap
from mednext_jax.evaluate.statistics.agreement import pearson
from mednext_jax.evaluate.statistics.bootstrap import interval, interval_of_mean

pytestmark = pytest.mark.core


def test_intervals_are_scipy_s_percentiles_with_the_same_generator():
    values = np.random.default_rng(3).gamma(2, 2, 25)
    options = {"n_resamples": 2000, "method": "percentile", "vectorized": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = stats.bootstrap((values,), np.mean, rng=np.random.default_rng(0), **options)
        except TypeError:  # SciPy before 1.15
            found = stats.bootstrap((values,), np.mean, random_state=np.random.default_rng(0), **options)
    assert interval_of_mean(values) == pytest.approx(tuple(found.confidence_interval), abs=1e-12)


def test_pieces_of_the_work_give_the_same_draws(monkeypatch):
    values = np.random.default_rng(4).normal(size=(9, 2))
    whole = interval(lambda drawn: drawn[..., 0].mean(-1), values)
    monkeypatch.setattr(bootstrap, "_AT_ONCE", 100)
    assert interval(lambda drawn: drawn[..., 0].mean(-1), values) == whole


def test_what_few_subjects_leave_undefined_is_nan():
    assert all(math.isnan(x) for x in interval_of_mean(np.array([0.5])))
    # Of three subjects every ninth resample draws one alone, and a correlation is undefined there.
    three = np.array([[1.0, 2.0], [2.0, 1.0], [3.0, 4.0]])
    assert all(math.isnan(x) for x in interval(lambda drawn: pearson(drawn[..., 0], drawn[..., 1]), three))
    assert interval_of_mean(np.full(6, 0.25)) == (0.25, 0.25)
