"""Raters' masks: pairs by hand, reliability, and a tool beside the raters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mednext_jax.errors import InputError
from mednext_jax.evaluate.case import evaluate_case
from mednext_jax.evaluate.mask_source import MaskSource
from mednext_jax.evaluate.raters.mask_raters import (
    check_cases,
    compare_case,
    pair_rows,
    reliability_rows,
    second_rater_rows,
)
from mednext_jax.evaluate.statistics.agreement import icc

pytest.importorskip("SimpleITK")
pytestmark = pytest.mark.core
RATERS = ["A", "B", "C"]


def row_of(*columns):
    mask = np.zeros((1, 1, 20), bool)
    mask[0, 0, list(columns)] = True
    return mask


def cohort(error, cases=8):
    """Three raters who miss a tenth, and a tool that errs `error`; (pairs, measures) with their cases."""
    pairs, measures = [], []
    for number in range(cases):
        rng = np.random.default_rng(number)
        truth = np.zeros((24, 24, 12), bool)
        for x, y in rng.integers(0, 24, (12 + 2 * number, 2)):
            truth[x, y, 2:8] = True
        masks = {name: truth & (rng.random(truth.shape) > 0.1) for name in RATERS}
        masks["tool"] = truth & (rng.random(truth.shape) > error)
        found, sizes = compare_case(masks, RATERS, 0.5)
        pairs += [{"case": str(number)} | row for row in found]
        measures += [{"case": str(number)} | row for row in sizes]
    return pairs, measures


def test_one_scan_by_hand():
    masks = {"A": row_of(1, 2, 5), "B": row_of(1, 2), "tool": row_of(1, 2, 3, 9)}
    pairs, measures = compare_case(masks, ["A", "B"], 2.0)
    found = {(row["first"], row["second"]): row for row in pairs}
    assert found["A", "B"]["dice"] == pytest.approx(4 / 5)
    assert found["A", "B"]["cluster_dice"] == pytest.approx(2 / 3)
    assert found["A", "tool"]["dice"] == pytest.approx(4 / 7)
    assert ("tool", "majority") in found and ("A", "majority") not in found  # the other of two is no consensus
    assert found["tool", "majority"]["dice"] == pytest.approx(4 / 6)
    assert [(row["mask"], row["volume_mm3"], row["count"]) for row in measures[:3]] == [
        ("A", 6, 2),
        ("B", 4, 1),
        ("tool", 8, 2),
    ]


def test_a_rater_is_held_against_the_others():
    masks = {"A": row_of(1, 2, 3), "B": row_of(1, 2), "C": row_of(1, 7)}
    masks["tool"] = row_of(1)
    found = {(row["first"], row["second"], row["without"]): row for row in compare_case(masks, RATERS, 1)[0]}
    assert found["A", "majority", "A"]["dice"] == pytest.approx(2 * 1 / (3 + 1))  # of B and C: voxel 1
    assert found["C", "majority", "C"]["dice"] == pytest.approx(2 * 1 / (2 + 2))  # of A and B: 1 and 2
    # The tool is held against the same masks as the rater that is left out.
    assert found["tool", "majority", "A"]["dice"] == 1
    assert found["tool", "majority", "C"]["dice"] == found["tool", "majority", ""]["dice"] == pytest.approx(2 / 3)


def test_reliability_is_the_icc_of_all_raters():
    _, measures = cohort(0.1)
    rows = {row["quantity"]: row for row in reliability_rows(measures, RATERS)}
    table = [
        [next(m["volume_mm3"] for m in measures if (m["case"], m["mask"]) == (str(c), r)) for r in RATERS]
        for c in range(8)
    ]
    assert rows["volume_mm3"]["icc_2_1"] == pytest.approx(float(icc(np.array(table))[0]))
    assert rows["volume_mm3"]["icc_2_1"] > 0.9 and rows["count"]["scans"] == 8 and rows["count"]["raters"] == 3


def test_a_tool_like_a_rater_and_a_worse_one():
    pairs, _ = cohort(0.1)
    rows = {(row["score"], row["against"]): row for row in second_rater_rows(pairs, RATERS, ["tool"])}
    assert set(rows) == {
        (score, held) for score in ("dice", "cluster_dice") for held in ("raters", "majority", "STAPLE")
    }
    like = rows["dice", "raters"]
    assert abs(rows["dice", "majority"]["difference"]) < 0.03
    by_case = {}
    for row in pairs:
        ends = {row["first"], row["second"]}
        if ends <= {*RATERS, "tool"}:
            by_case.setdefault((row["case"], "tool" in ends), []).append(row["dice"])
    with_tool = np.mean([np.mean(v) for (_, tool), v in by_case.items() if tool])
    among = np.mean([np.mean(v) for (_, tool), v in by_case.items() if not tool])
    assert (like["tool_mean"], like["rater_mean"]) == pytest.approx((with_tool, among))
    assert like["williams_index"] == pytest.approx(with_tool / among) and abs(like["difference"]) < 0.02
    worse = {(r["score"], r["against"]): r for r in second_rater_rows(cohort(0.5)[0], RATERS, ["tool"])}
    assert worse["dice", "raters"]["high"] < 0 and worse["dice", "raters"]["williams_high"] < 1
    assert worse["dice", "raters"]["p"] < 0.05 and worse["dice", "STAPLE"]["difference"] < 0


def test_pairs_over_the_scans():
    pairs, measures = cohort(0.1)
    rows = {(row["first"], row["second"]): row for row in pair_rows(pairs, measures)}
    values = [row["dice"] for row in pairs if (row["first"], row["second"]) == ("A", "B")]
    row = rows["A", "B"]
    assert (row["scans"], row["dice_n"], row["dice_mean"]) == (8, 8, pytest.approx(np.mean(values)))
    assert row["dice_low"] < row["dice_mean"] < row["dice_high"] and row["volume_mm3_icc_2_1"] > 0.9
    assert rows["tool", "STAPLE"]["dice_mean"] > 0.9 and ("A", "STAPLE") not in rows  # a part of it


def test_scans_without_pvs_are_left_out_and_counted():
    nothing = row_of()
    pairs, measures = [], []
    for case, masks in enumerate(
        [dict.fromkeys((*RATERS, "tool"), nothing)] + [{name: row_of(1) for name in (*RATERS, "tool")}]
    ):
        found, sizes = compare_case(masks, RATERS, 1)
        pairs += [{"case": case} | row for row in found]
        measures += [{"case": case} | row for row in sizes]
    row = pair_rows(pairs, measures)[0]
    assert (row["scans"], row["dice_n"], row["dice_mean"]) == (2, 1, 1)
    assert second_rater_rows(pairs, RATERS, ["tool"])[0]["scans"] == 1


def test_by_region_the_scores_are_those_of_an_evaluation():
    rng = np.random.default_rng(3)
    truth = np.zeros((20, 18, 16), bool)
    for x, y in rng.integers(0, 18, (30, 2)):
        truth[x, y, 2:8] = True
    masks = {name: truth & (rng.random(truth.shape) > 0.2) for name in (*RATERS, "tool")}
    regions, names = np.ones(truth.shape, int), {1: "white matter", 2: "basal ganglia", 3: "midbrain"}
    regions[9:] = 2
    pairs, measures = compare_case(masks, RATERS, 0.5, regions, names)
    assert {row["region"] for row in pairs} == {row["region"] for row in measures} == {"all", *names.values()}
    sizes = {(row["region"], row["mask"]): row for row in measures}
    for row in pairs:
        if (row["first"], row["second"]) in (("A", "B"), ("B", "tool")):
            first, second = masks[row["first"]], masks[row["second"]]
            there, back = (
                evaluate_case(*pair, 0.5, regions, names)[row["region"]] for pair in ((first, second), (second, first))
            )
            np.testing.assert_equal(row["dice"], there["dice"])
            np.testing.assert_equal(row["cluster_dice"], (there["cluster_dice"] + back["cluster_dice"]) / 2)
            assert sizes[row["region"], row["first"]]["count"] == there["count"]
            assert sizes[row["region"], row["second"]]["volume_mm3"] == there["reference_volume_mm3"]
    assert sizes["midbrain", "A"]["count"] == 0 < sizes["basal ganglia", "STAPLE"]["count"]
    pairs, measures = ([{"case": "1"} | row for row in rows] for rows in (pairs, measures))
    rows = {(row["region"], row["first"], row["second"]): row for row in pair_rows(pairs, measures)}
    assert len(rows) == 4 * 8 and [*rows][0][0] == "all"  # six pairs, the tool with two consensuses
    expected = next(
        r["dice"] for r in pairs if (r["region"], r["first"], r["second"]) == ("basal ganglia", "A", "tool")
    )
    assert rows["basal ganglia", "A", "tool"]["dice_mean"] == expected
    held = {(row["region"], row["score"], row["against"]): row for row in second_rater_rows(pairs, RATERS, ["tool"])}
    assert ("midbrain", "dice", "raters") not in held  # nobody marked anything there
    assert held["white matter", "dice", "raters"]["tool_mean"] != held["all", "dice", "raters"]["tool_mean"]
    assert len(reliability_rows(measures, RATERS)) == 4 * 2


def test_raters_with_different_cases_are_refused():
    path = Path("x.nii.gz")
    a, b = MaskSource("A", {"1": path, "2": path}), MaskSource("B", {"2": path, "3": path})
    with pytest.raises(InputError, match="different cases") as error:
        check_cases([a, b])
    assert [(p.file, p.found) for p in error.value.problems] == [("A", "not 3"), ("B", "not 1")]
    with pytest.raises(InputError, match="no rater has"):
        check_cases([a], [b])
    assert check_cases([a, a], [MaskSource("tool", {"2": path})]) == ["1", "2"]
