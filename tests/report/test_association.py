"""Lines, intervals and outliers against statsmodels and known answers."""

from __future__ import annotations

import numpy as np
import pytest

from mednext_jax.report.association import as_groups, as_numbers, fit_line, mean_interval, outliers

pytestmark = pytest.mark.core


def test_the_line_and_its_band_are_those_of_statsmodels():
    api = pytest.importorskip("statsmodels.api")
    random = np.random.default_rng(3)
    x = random.uniform(40, 90, 23)
    y = 5 + 0.7 * x + random.normal(0, 8, 23)
    line = fit_line(x, y)
    fit = api.OLS(y, api.add_constant(x)).fit()
    assert line.slope == pytest.approx(fit.params[1], rel=1e-9)
    assert line.slope_interval == pytest.approx(fit.conf_int()[1], rel=1e-9)
    assert line.p_value == pytest.approx(fit.pvalues[1], rel=1e-6)
    assert line.correlation**2 == pytest.approx(fit.rsquared, rel=1e-9)
    at, mean, lower, upper = line.band
    frame = fit.get_prediction(api.add_constant(at)).summary_frame(alpha=0.05)
    assert mean == pytest.approx(frame["mean"].to_numpy(), rel=1e-9)
    assert lower == pytest.approx(frame["mean_ci_lower"].to_numpy(), rel=1e-9)
    assert upper == pytest.approx(frame["mean_ci_upper"].to_numpy(), rel=1e-9)


@pytest.mark.parametrize(("x", "y"), [([1, 2], [1, 2]), ([3, 3, 3, 3], [1, 2, 3, 4]), ([], [])])
def test_there_is_no_line_through_too_little(x, y):
    assert fit_line(x, y) is None


def test_points_on_a_line_have_it():
    line = fit_line([0, 1, 2, 3], [1, 3, 5, 7])
    assert line.slope == pytest.approx(2) and line.slope_interval == pytest.approx((2, 2), abs=1e-6)
    assert line.band[1][[0, -1]] == pytest.approx([1, 7])


def test_the_interval_of_a_mean_covers_it_as_often_as_it_says():
    random = np.random.default_rng(0)
    inside = [low <= 10 <= high for _, low, high in (mean_interval(random.normal(10, 3, 8)) for _ in range(2000))]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.015)  # 3 binomial standard errors
    assert mean_interval([4.0]) == (4.0, 4.0, 4.0)


def test_outliers_are_far_on_a_logarithmic_scale():
    values = [100, 110, 90, 120, 95, 105, 100000, 0]
    found = outliers(values)
    assert [i for i, z in enumerate(found) if z is not None] == [6, 7] and found[6] > 0 > found[7]
    logs = np.log1p(values)
    away = logs - np.median(logs)
    assert found[6] == pytest.approx(0.6745 * away[6] / np.median(np.abs(away)))
    assert outliers([1, 2, 3, 900]) == [None] * 4  # too few to say
    assert outliers([5.0] * 9) == [None] * 9


def test_columns_are_numbers_groups_or_neither():
    ages = {"a": "61", "b": "72.5", "c": "n/a", "d": "40", "e": ""}
    assert as_numbers(ages) == {"a": 61, "b": 72.5, "d": 40}
    assert as_numbers({"a": "1", "b": "2", "c": "x"}) is None
    assert as_numbers({"a": "0", "b": "1", "c": "0"}) is None  # two values are groups
    assert as_numbers({"a": "nan", "b": "inf", "c": "1", "d": "2", "e": "3"}) is None
    assert as_groups({"a": "F", "b": "M", "c": "F", "d": "n/a"}) == {"F": ["a", "c"], "M": ["b"]}
    assert as_groups({"a": "F", "b": "F"}) is None
    assert as_groups({str(i): f"name {i}" for i in range(6)}) is None  # another word for each
    assert as_groups({str(i): str(i % 13) for i in range(60)}) is None
