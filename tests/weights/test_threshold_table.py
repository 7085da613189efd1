"""Which row of a table a scan gets, and what is no table."""

from __future__ import annotations

import pytest

from mednext_jax.weights.threshold_table import contrasts_of, is_coarser, is_threshold_table, row_for

pytestmark = pytest.mark.core


def row(contrast, largest, threshold):
    return {"contrast": contrast, "largest_voxel": largest, "threshold": threshold}


TABLE = (row("FLAIR", 6, 0.6), row("T1w", 2.5, 0.4), row("T1w", 1.2, 0.3), row("T1w", None, 0.5))


@pytest.mark.parametrize(
    ("contrast", "voxel", "threshold"),
    [
        ("T1w", 0.7, 0.3),
        ("T1w", 1.2, 0.3),
        ("T1w", 1.2 + 1e-7, 0.3),  # a header's float32
        ("T1w", 1.3, 0.4),
        ("T1w", 5.0, 0.5),
        ("FLAIR", 1.0, 0.6),
        ("FLAIR", 7.0, 0.6),  # coarser than all: the coarsest
        ("T2w", 1.0, None),
        (None, 1.0, None),
    ],
)
def test_a_scan_gets_the_row_of_its_contrast_and_the_next_larger_voxel(contrast, voxel, threshold):
    found = row_for(TABLE, contrast, voxel)
    assert (found and found["threshold"]) == threshold


def test_a_row_for_any_contrast_takes_the_rest():
    table = (*TABLE, row(None, None, 0.45))
    assert row_for(table, None, 1.0)["threshold"] == row_for(table, "PD", 9.0)["threshold"] == 0.45
    assert row_for(table, "T1w", 1.0)["threshold"] == 0.3
    assert contrasts_of(TABLE) == ["T1w", "FLAIR"] and contrasts_of(table) == contrasts_of(()) == []
    assert row_for((), "T1w", 1.0) is None


def test_coarser_than_a_row():
    assert is_coarser(TABLE[0], 6.1) and not is_coarser(TABLE[0], 6.0) and not is_coarser(TABLE[3], 99.0)


@pytest.mark.parametrize(
    "wrong",
    [
        [row("T1w", 1, 0.5)],  # a list is read as a tuple before
        (row("T1", 1, 0.5),),
        (row(["T1w"], 1, 0.5),),
        (row("T1w", 0, 0.5),),
        (row("T1w", True, 0.5),),
        (row("T1w", float("nan"), 0.5),),
        (row("T1w", 1, 1),),
        (row("T1w", 1, "0.5"),),
        (row("T1w", 1, 0.5), row("T1w", 1, 0.6)),
        ({"contrast": "T1w", "threshold": 0.5},),
        ({**row("T1w", 1, 0.5), "more": 1},),
        (0.5,),
        "T1w",
    ],
)
def test_what_is_no_table(wrong):
    assert is_threshold_table(()) and is_threshold_table(TABLE) and not is_threshold_table(wrong)
