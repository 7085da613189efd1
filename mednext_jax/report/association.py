"""A participant's column against a measure: the least-squares line with its interval, groups with means, outliers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

LEVEL = 0.95
# Modified z-score of Iglewicz and Hoaglin (1993), with their cut-off.
MODIFIED_Z, OUTLIER = 0.6745, 3.5
FEWEST = 5  # scans that outliers are looked for among
MAX_GROUPS = 12
LINE_POINTS = 40
MISSING = ("", "n/a", "na", "nan")  # BIDS: n/a


@dataclasses.dataclass(frozen=True)
class Line:
    """y = intercept + slope x by least squares. slope_interval: at `LEVEL`. band: x, y, lower, upper of the mean."""

    slope: float
    slope_interval: tuple[float, float]
    p_value: float
    correlation: float
    band: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def fit_line(x: Sequence[float], y: Sequence[float]) -> Line | None:
    """The line through points and the pointwise interval of its mean; None below three points or without spread in x.

    Interval: y ± t s sqrt(1/n + (x - mean)^2 / Sxx), t of n - 2 degrees of freedom.
    """
    a, b = np.asarray(x, float), np.asarray(y, float)
    if len(a) < 3 or np.ptp(a) == 0:
        return None
    fit = stats.linregress(a, b)
    t = float(stats.t.ppf((1 + LEVEL) / 2, len(a) - 2))
    at = np.linspace(a.min(), a.max(), LINE_POINTS)
    mean = fit.intercept + fit.slope * at
    residual = b - fit.intercept - fit.slope * a
    s = np.sqrt((residual**2).sum() / (len(a) - 2))
    half = t * s * np.sqrt(1 / len(a) + (at - a.mean()) ** 2 / ((a - a.mean()) ** 2).sum())
    interval = (fit.slope - t * fit.stderr, fit.slope + t * fit.stderr)
    return Line(float(fit.slope), interval, float(fit.pvalue), float(fit.rvalue), (at, mean, mean - half, mean + half))


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean and the ends of its t interval; of one value the mean alone, three times."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, mean, mean
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * stats.sem(values))
    return mean, mean - half, mean + half


def outliers(values: Sequence[float]) -> list[float | None]:
    """The modified z-score of each value that lies beyond `OUTLIER`, on the logarithm of 1 + value; else None.

    Counts and volumes are skewed: without the logarithm every large one is an outlier.
    """
    if len(values) < FEWEST:
        return [None] * len(values)
    logs = np.log1p(np.asarray(values, float))
    away = logs - np.median(logs)
    spread = float(np.median(np.abs(away)))
    if spread == 0:
        return [None] * len(values)
    scores = MODIFIED_Z * away / spread
    return [float(z) if abs(z) > OUTLIER else None for z in scores]


def as_numbers(values: Mapping[str, str]) -> dict[str, float] | None:
    """Case -> number of a column whose cells all are numbers or missing, and that has more than two; else None."""
    given = {case: text for case, text in values.items() if text.strip().lower() not in MISSING}
    try:
        found = {case: float(text) for case, text in given.items()}
    except ValueError:
        return None
    if not all(np.isfinite(list(found.values()))) or len(set(found.values())) < 3:
        return None
    return found


def as_groups(values: Mapping[str, str]) -> dict[str, list[str]] | None:
    """Group -> its cases, of a column with two to `MAX_GROUPS` values that are not another for each case; else None."""
    groups: dict[str, list[str]] = {}
    for case, text in values.items():
        if text.strip().lower() not in MISSING:
            groups.setdefault(text.strip(), []).append(case)
    told_apart = 2 <= len(groups) <= MAX_GROUPS and any(len(cases) > 1 for cases in groups.values())
    return dict(sorted(groups.items())) if told_apart else None
