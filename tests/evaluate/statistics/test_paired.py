"""Wilcoxon and Holm against SciPy, statsmodels and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mednext_jax.evaluate.statistics.paired import holm, wilcoxon

pytestmark = pytest.mark.core


def test_wilcoxon_by_hand():
    """All of six differences positive: p = 2 / 2^6, exactly."""
    first = np.array([3.0, 5, 9, 2, 8, 4])
    assert wilcoxon(first + [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], first) == pytest.approx(2 / 64)
    assert wilcoxon(first, first) == 1
    assert math.isnan(wilcoxon(np.zeros(0), np.zeros(0)))


def test_wilcoxon_is_pingouin_s():
    pingouin = pytest.importorskip("pingouin")
    rng = np.random.default_rng(0)
    first = rng.normal(size=20)
    second = first + rng.normal(0.2, 0.5, 20)
    p = pingouin.wilcoxon(first, second).iloc[0]
    assert wilcoxon(first, second) == pytest.approx(float(p["p_val" if "p_val" in p else "p-val"]), abs=1e-9)


def test_holm_is_that_of_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = np.random.default_rng(1).random(9) ** 3
    assert holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1].tolist(), abs=1e-12)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    corrected = holm([0.02, math.nan, 0.6])
    assert corrected[0] == pytest.approx(0.04) and math.isnan(corrected[1]) and corrected[2] == pytest.approx(0.6)
    assert holm([]) == []
