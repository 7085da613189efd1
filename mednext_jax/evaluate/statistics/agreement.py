"""Agreement of measurements of the same subjects: intraclass correlations, Lin's concordance, Bland-Altman limits.

The correlations work on the last axes of an array, so that all resamples of a bootstrap are one call. NaN stands for
what the subjects do not determine: fewer than `FEWEST`, or no spread.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from scipy import stats

FEWEST = 3  # subjects: a line through two points says nothing
LIMIT = 1.96  # standard deviations on either side that hold 95 % of a normal distribution


def icc(ratings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ICC(2,1), absolute agreement, and ICC(3,1), consistency, of ratings (..., subjects, raters); each of shape (...).

    Shrout & Fleiss 1979, by a two-way analysis of variance: raters random in the first, fixed in the second.
    """
    ratings = np.asarray(ratings, float)
    n, k = ratings.shape[-2:]
    if n < FEWEST or k < 2:
        nothing = np.full(ratings.shape[:-2], math.nan)
        return nothing, nothing
    subject, rater = ratings.mean(-1, keepdims=True), ratings.mean(-2, keepdims=True)
    grand = ratings.mean((-2, -1), keepdims=True)
    between = k * ((subject - grand) ** 2).sum((-2, -1)) / (n - 1)
    raters = n * ((rater - grand) ** 2).sum((-2, -1)) / (k - 1)
    error = ((ratings - subject - rater + grand) ** 2).sum((-2, -1)) / ((n - 1) * (k - 1))
    absolute = between + (k - 1) * error + k * (raters - error) / n
    consistent = between + (k - 1) * error
    flat = (np.ptp(ratings, (-2, -1)) == 0) | (absolute <= 0) | (consistent <= 0)
    with np.errstate(all="ignore"):
        pair = (between - error) / absolute, (between - error) / consistent
    return np.where(flat, math.nan, pair[0]), np.where(flat, math.nan, pair[1])


def icc_2_1(ratings: np.ndarray) -> np.ndarray:
    """The first of `icc`."""
    return icc(ratings)[0]


def icc_3_1(ratings: np.ndarray) -> np.ndarray:
    """The second of `icc`."""
    return icc(ratings)[1]


def pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's correlation of x and y (..., subjects)."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.shape[-1] < FEWEST:
        return np.full(x.shape[:-1], math.nan)
    a, b = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    return _defined((a * b).sum(-1), np.sqrt((a**2).sum(-1) * (b**2).sum(-1)), x, y)


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's correlation of x and y (..., subjects): Pearson's of the ranks, ties with their mean rank."""
    return pearson(stats.rankdata(x, axis=-1), stats.rankdata(y, axis=-1))


def concordance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Lin's concordance correlation coefficient (1989) of x and y (..., subjects), with variances over n as he has."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.shape[-1] < FEWEST:
        return np.full(x.shape[:-1], math.nan)
    away = x.mean(-1) - y.mean(-1)
    both = ((x - x.mean(-1, keepdims=True)) * (y - y.mean(-1, keepdims=True))).mean(-1)
    return _defined(2 * both, x.var(-1) + y.var(-1) + away**2, x, y)


@dataclasses.dataclass(frozen=True)
class BlandAltman:
    """Bias and 95 % limits of agreement of measured - reference, each with its 95 % interval (low, high)."""

    n: int
    bias: float
    sd: float  # of the differences, n - 1
    lower: float
    upper: float
    bias_interval: tuple[float, float]
    lower_interval: tuple[float, float]
    upper_interval: tuple[float, float]

    @classmethod
    def of(cls, measured: np.ndarray, reference: np.ndarray) -> BlandAltman:
        """Bland & Altman 1999 for (subjects,): limits bias ± 1.96 SD; intervals by Student's t with n - 1.

        A limit's standard error is SD sqrt(1/n + 1.96^2 / (2 (n - 1))). NaN for fewer than `FEWEST` subjects.
        """
        difference = np.asarray(measured, float) - np.asarray(reference, float)
        n = len(difference)
        bias = float(difference.mean()) if n else math.nan
        if n < FEWEST:
            nothing = (math.nan, math.nan)
            return cls(n, bias, math.nan, math.nan, math.nan, nothing, nothing, nothing)
        sd = float(difference.std(ddof=1))
        t = float(stats.t.ppf(0.975, n - 1))
        around_bias = t * sd / math.sqrt(n)
        around_limit = t * sd * math.sqrt(1 / n + LIMIT**2 / (2 * (n - 1)))
        lower, upper = bias - LIMIT * sd, bias + LIMIT * sd
        return cls(
            n,
            bias,
            sd,
            lower,
            upper,
            (bias - around_bias, bias + around_bias),
            (lower - around_limit, lower + around_limit),
            (upper - around_limit, upper + around_limit),
        )


def _defined(part: np.ndarray, whole: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`part` / `whole` where both x and y spread, else NaN."""
    spread = (np.ptp(x, -1) > 0) & (np.ptp(y, -1) > 0)
    with np.errstate(all="ignore"):
        return np.where(spread, part / whole, math.nan)
