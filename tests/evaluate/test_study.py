"""The rows of a cohort's statistics against NumPy, SciPy and the functions that they are made of."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mednext_jax.evaluate.case import evaluate_case
from mednext_jax.evaluate.statistics.bootstrap import interval_of_mean
from mednext_jax.evaluate.study import SCORES, agreement, agreement_rows, comparison_rows, empty_rows, score_rows

pytestmark = pytest.mark.core
NAMES = {1: "wm", 2: "bg"}


def cohort(flip, cases=9):
    """Scores of random clusters; `flip`: the part of the reference's voxels that the tool errs at."""
    found = {}
    for case in range(cases):
        rng = np.random.default_rng(case)
        truth = rng.random((14, 13, 12)) < 0.01 + 0.004 * case
        predicted = truth ^ (rng.random(truth.shape) < flip)
        regions = np.ones(truth.shape, int)
        regions[7:] = 2
        found[f"case-{case}"] = evaluate_case(predicted, truth, 0.64, regions, NAMES, axes=np.diag((0.8, 0.8, 1)))
    return found


@pytest.fixture(scope="module")
def tools():
    return {"fine": cohort(0.004), "coarse": cohort(0.03)}


def test_scores_have_mean_spread_and_interval(tools):
    rows = {(row["tool"], row["region"], row["score"]): row for row in score_rows(tools)}
    assert {region for _, region, _ in rows} == {"all", "wm", "bg"}
    for key in (("fine", "all", "dice"), ("coarse", "bg", "cluster_recall"), ("fine", "wm", "nsd_1_mm")):
        values = np.array([case[key[1]][key[2]] for case in tools[key[0]].values()])
        row = rows[key]
        assert (row["mean"], row["sd"], row["median"]) == pytest.approx(
            (values.mean(), values.std(ddof=1), np.median(values)), abs=1e-9
        )
        assert (row["low"], row["high"]) == interval_of_mean(values) and row["low"] < row["mean"] < row["high"]
        assert (row["n"], row["undefined"]) == (9, 0)
    assert rows["fine", "all", "dice"]["mean"] > rows["coarse", "all", "dice"]["mean"]
    assert ("fine", "wm", "valdo2021_f1") not in rows and ("fine", "all", "valdo2021_f1") in rows


def test_recall_by_size_is_over_all_clusters_of_the_cohort(tools):
    row = next(row for row in score_rows(tools) if row["score"] == "recall_0_to_5_mm3" and row["tool"] == "coarse")
    cases = [case["all"] for case in tools["coarse"].values()]
    expected = sum(c["found_0_to_5_mm3"] for c in cases) / sum(c["reference_count_0_to_5_mm3"] for c in cases)
    assert row["mean"] == pytest.approx(expected) and row["low"] < expected < row["high"]
    above = next(row for row in score_rows(tools) if row["score"] == "recall_from_15_mm3")
    assert math.isnan(above["mean"]) and above["n"] == 0


def test_agreement_of_volumes(tools):
    row = next(
        row
        for row in agreement_rows(tools)
        if (row["tool"], row["region"], row["quantity"]) == ("coarse", "all", "count")
    )
    x = np.array([case["all"]["count"] for case in tools["coarse"].values()], float)
    y = np.array([case["all"]["reference_count"] for case in tools["coarse"].values()], float)
    assert row["pearson"] == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-9)
    assert row["spearman"] == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)
    assert row["bias"] == pytest.approx((x - y).mean())
    assert row["lower_limit"] == pytest.approx((x - y).mean() - 1.96 * (x - y).std(ddof=1))
    assert row["mean_absolute_difference"] == pytest.approx(np.abs(x - y).mean())
    assert row["icc_2_1"] <= row["icc_3_1"] and row["icc_3_1_low"] <= row["icc_3_1"] <= row["icc_3_1_high"]
    # Counted twice as high: consistent, but not in absolute agreement.
    doubled = agreement(2 * y, y)
    assert doubled["pearson"] == pytest.approx(1) and doubled["ccc"] < 0.9 and doubled["icc_2_1"] < 0.9


def test_tools_are_compared_on_the_scans_of_both_and_corrected(tools):
    three = {**tools, "worst": dict(list(cohort(0.1).items())[:8])}
    rows = [row for row in comparison_rows(three) if (row["region"], row["score"]) == ("all", "dice")]
    assert [(row["first"], row["second"], row["n"]) for row in rows] == [
        ("fine", "coarse", 9),
        ("fine", "worst", 8),
        ("coarse", "worst", 8),
    ]
    a, b = (np.array([case["all"]["dice"] for case in tools[name].values()]) for name in tools)
    assert rows[0]["mean_difference"] == pytest.approx((a - b).mean())
    assert rows[0]["p"] == pytest.approx(stats.wilcoxon(a, b).pvalue)
    p = sorted(row["p"] for row in rows)
    assert min(row["p_holm"] for row in rows) == pytest.approx(min(1, 3 * p[0]))
    assert {row["score"] for row in comparison_rows(tools)} <= set(SCORES)
    assert comparison_rows({"fine": tools["fine"]}) == []


HIGHER = [name for name, better in SCORES.items() if better and name != "average_precision"]


def test_a_perfect_tool_has_perfect_scores_and_swapped_masks_swapped_ones():
    rng = np.random.default_rng(5)
    first, second = rng.random((2, 14, 13, 12)) < 0.03
    axes = np.array([[0.5, 0.1, 0], [0, 0.8, 0], [0, 0, 2]])
    perfect = evaluate_case(first, first, 0.8, axes=axes)["all"]
    assert {perfect[name] for name in HIGHER if name in perfect} == {1.0}
    assert perfect["hd95_mm"] == perfect["volume_difference_mm3"] == perfect["epvs2024_avd"] == 0
    there = evaluate_case(first, second, 0.8, axes=axes)["all"]
    back = evaluate_case(second, first, 0.8, axes=axes)["all"]
    for name in ("dice", "nsd_1_voxel", "nsd_1_mm", "hd95_mm", "absolute_volume_difference_mm3", "one_to_one_dice"):
        assert there[name] == pytest.approx(back[name]) and there[name] > 0
    for name in ("", "one_to_one_"):
        assert there[f"{name}precision"] == back[f"{name}recall"] != there[f"{name}recall"]
    assert there["volume_difference_mm3"] == -back["volume_difference_mm3"]
    assert there.get("cl_dice", 0) == pytest.approx(back.get("cl_dice", 0))


def test_empty_cases_are_counted():
    nothing, something = np.zeros((2, 6, 6, 6), bool)
    something[2, 2, 2] = True
    pairs = {
        "both": (nothing, nothing),
        "p": (nothing, something),
        "r": (something, nothing),
        "x": (something, something),
    }
    cases = {name: evaluate_case(*pair, 1.0, axes=np.eye(3)) for name, pair in pairs.items()}
    (row,) = empty_rows({"tool": cases})
    assert row["cases"] == 4
    assert [row[f"empty_{kind}"] for kind in ("in_both", "prediction_only", "reference_only")] == [1, 1, 1]
    rows = {row["score"]: row for row in score_rows({"tool": cases})}
    assert (rows["dice"]["n"], rows["dice"]["undefined"]) == (3, 1) and rows["dice"]["mean"] == pytest.approx(1 / 3)
    assert (rows["hd95_mm"]["n"], rows["hd95_mm"]["undefined"]) == (1, 3)
    assert rows["nsd_1_mm"]["n"] == 3
    # A cohort without any PVS has no statistics, and no failure either.
    empty = {"tool": dict.fromkeys("abc", cases["both"])}
    assert all(
        math.isnan(row["mean"])
        for row in score_rows(empty)
        if row["score"].endswith("dice") and "2" not in row["score"]
    )
    assert all(math.isnan(row["icc_2_1"]) for row in agreement_rows(empty))
