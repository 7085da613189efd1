"""Intervals over models and mirrors: their formula, and rows of made-up members."""

from __future__ import annotations

import numpy as np
import pytest

from mednext_jax.quantify.members import Members, interval, with_members
from mednext_jax.quantify.one_scan import Counting, quantify_arrays
from tests.measure.brain import AFFINE
from tests.quantify.conftest import pvs_mask

pytestmark = pytest.mark.core


def test_variances_between_models_and_between_mirrors_add_up():
    values = np.array([[10.0, 14.0], [20.0, 24.0], [30.0, 34.0]])  # models 10 apart, mirrors 4
    middle, low, high = interval(values)
    half = 1.959964 * np.sqrt(100 + 8)
    assert (middle, low, high) == pytest.approx((22, 22 - half, 22 + half))
    assert interval(np.array([[1.0, 9.0]]))[1] == 0  # no count is negative
    assert interval(np.array([[5.0], [7.0]])) == pytest.approx(
        (6, 6 - 1.959964 * np.sqrt(2), 6 + 1.959964 * np.sqrt(2))
    )
    assert interval(np.array([[3.0]])) == (3.0, None, None)


def test_rows_of_three_members():
    mask = pvs_mask()
    fewer, none = mask.copy(), np.zeros_like(mask)
    fewer[8] = 0
    found = [[np.flatnonzero(m) for m in (mask, fewer, none)]]
    entropy = np.where(mask, 0.5, 0.1).astype(np.float32)
    entropy[30, 8, 8] = 1
    counting = Counting()
    measured = with_members(quantify_arrays(mask, AFFINE), Members({"entropy": entropy}, found), AFFINE, None, counting)
    (whole,) = measured.regions
    assert whole["count_expected"] == pytest.approx((3 + 2 + 0) / 3)
    assert whole["volume_expected_mm3"] == pytest.approx((19 + 11 + 0) * 8 / 3)
    assert whole["count_high"] == pytest.approx(5 / 3 + 1.959964 * np.std([3, 2, 0], ddof=1))
    assert whole["count_low"] == 0 and whole["volume_low_mm3"] == 0
    by_size = {row["voxels"]: row["entropy"] for row in measured.clusters}
    assert by_size[5] == pytest.approx((4 * 0.5 + 1) / 5) and by_size[8] == pytest.approx(0.5)
