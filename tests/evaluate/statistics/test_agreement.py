"""Agreement against published examples, pingouin, SciPy, and the formulas written otherwise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mednext_jax.evaluate.statistics.agreement import BlandAltman, concordance, icc, pearson, spearman

pytestmark = pytest.mark.core

# Shrout & Fleiss 1979, table 2: six targets, four judges.
SHROUT = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])
# Bland & Altman 1986, table 1: peak flow by the large and the mini meter, first measurements, l/min.
LARGE = np.array([494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427])
MINI = np.array([512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451])


def test_icc_of_shrout_and_fleiss():
    absolute, consistent = icc(SHROUT)
    assert round(float(absolute), 2) == 0.29 and round(float(consistent), 2) == 0.71


@pytest.mark.parametrize("raters", [2, 3])
def test_icc_is_pingouin_s(raters):
    pingouin = pytest.importorskip("pingouin")
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(raters)
    ratings = rng.normal(50, 20, (12, 1)) + rng.normal(0, 8, (12, raters)) + 5 * np.arange(raters)
    subject, rater = np.indices(ratings.shape)
    data = pandas.DataFrame({"s": subject.ravel(), "r": rater.ravel(), "y": ratings.ravel()})
    table = pingouin.intraclass_corr(data, targets="s", raters="r", ratings="y")
    single = [value for kind, value in zip(table["Type"], table["ICC"], strict=True) if "k" not in kind.lower()]
    assert [float(x) for x in icc(ratings)] == pytest.approx(single[1:3], abs=1e-6)


def test_correlations_are_scipy_s_for_all_resamples_at_once():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, (5, 20)).astype(float)  # with ties
    y = x + rng.normal(0, 3, x.shape)
    for i, (a, b) in enumerate(zip(x, y, strict=True)):
        assert pearson(x, y)[i] == pytest.approx(stats.pearsonr(a, b).statistic, abs=1e-12)
        assert spearman(x, y)[i] == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    assert icc(np.stack([x, y], -1))[0].shape == (5,)


def test_concordance_is_one_less_the_mean_square_over_that_of_independent_pairs():
    """Lin 1989: 1 - E(x - y)^2 / E_independent(x - y)^2, over all pairs of a subject's x and any subject's y."""
    rng = np.random.default_rng(1)
    x = rng.normal(10, 3, 15)
    y = 0.8 * x + rng.normal(3, 1, 15)
    expected = 1 - np.mean((x - y) ** 2) / np.mean(np.subtract.outer(x, y) ** 2)
    assert concordance(x, y) == pytest.approx(expected, abs=1e-12)
    assert concordance(x, x) == pytest.approx(1) and concordance(x, x + 3) < pearson(x, x + 3)


def test_limits_of_bland_and_altman_s_peak_flow_meters():
    found = BlandAltman.of(LARGE, MINI)
    assert (round(found.bias, 1), round(found.sd, 1)) == (-2.1, 38.8)
    # The paper takes 2 SD; and 1.96 since 1999.
    assert found.lower == pytest.approx(-2.1176 - 1.96 * 38.7651, abs=1e-3)
    assert found.upper == pytest.approx(-2.1176 + 1.96 * 38.7651, abs=1e-3)
    assert [round(x, 1) for x in found.bias_interval] == [-22.0, 17.8]
    # its standard error of the limits, sqrt(3 SD^2 / n) = 16.3, is the same to the first digits
    t = stats.t.ppf(0.975, 16)
    assert (found.upper_interval[1] - found.upper) / t == pytest.approx(16.3, abs=0.3)


def test_what_the_subjects_do_not_determine_is_nan():
    two, same = np.array([[1.0, 2.0], [3.0, 4.0]]), np.full((5, 2), 3.0)
    for ratings in (two, same, np.zeros((0, 2))):
        assert all(math.isnan(x) for x in icc(ratings))
        for statistic in (pearson, spearman, concordance):
            assert math.isnan(statistic(ratings[:, 0], ratings[:, 1]))
    assert math.isnan(BlandAltman.of(two[:, 0], two[:, 1]).upper) and BlandAltman.of(two[:, 0], two[:, 1]).bias == -1
    assert BlandAltman.of(same[:, 0], same[:, 1]).lower == 0
