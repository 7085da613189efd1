"""The sweep against scoring each threshold by itself, and the choice."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mednext_jax.evaluate.case import evaluate_case
from mednext_jax.evaluate.thresholds.sweep import THRESHOLDS, ScanSweep, best_threshold, sweep_rows
from mednext_jax.evaluate.thresholds.tool_sweep import ToolSweep

pytestmark = pytest.mark.core


def scan(seed):
    """A mask of bars, and probabilities that are high there and sometimes elsewhere."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((20, 18, 16), bool)
    for x, y in rng.integers(1, 16, (8, 2)):
        truth[x, y, 3:9] = True
    return np.clip(0.35 * truth + 0.4 * rng.random(truth.shape) ** 8 + 0.2 * rng.random(truth.shape), 0, 1), truth


def test_each_threshold_has_the_scores_of_its_mask():
    scans = [scan(seed) for seed in range(3)]
    rows = sweep_rows([ScanSweep.of(*pair) for pair in scans])
    assert [row["threshold"] for row in rows] == list(THRESHOLDS)
    for row in rows[::4]:
        found = [evaluate_case(p > row["threshold"], truth, 1.0)["all"] for p, truth in scans]
        for name in ("dice", "precision", "recall", "cluster_dice", "cluster_precision", "cluster_recall"):
            values = [scores[name] for scores in found if not math.isnan(scores[name])]
            assert row[name] == pytest.approx(np.mean(values) if values else math.nan, abs=1e-6, nan_ok=True)
        # the free-response curve: all reference clusters together, false ones a scan
        assert row["sensitivity"] == sum(s["cluster_tp"] for s in found) / sum(s["reference_count"] for s in found)
        assert row["false_positives"] == pytest.approx(sum(s["cluster_fp"] for s in found) / 3)
    # More voxels at lower thresholds: as many clusters found or more.
    assert all(a["sensitivity"] >= b["sensitivity"] for a, b in zip(rows, rows[1:], strict=False))


def test_the_best_threshold_of_a_criterion_ties_to_the_middle():
    rows = [
        {"threshold": 0.2, "dice": 0.7, "cluster_dice": 0.9},
        {"threshold": 0.4, "dice": 0.8, "cluster_dice": 0.5},
        {"threshold": 0.7, "dice": 0.8, "cluster_dice": math.nan},
    ]
    assert best_threshold(rows, "dice") == 0.4 and best_threshold(rows, "cluster_dice") == 0.2
    assert best_threshold([{"threshold": 0.5, "dice": math.nan}], "dice") is None


def test_a_tool_s_sweep_leaves_out_what_does_not_count():
    p, truth = scan(0)
    counted = np.ones_like(truth)
    counted[10:] = False
    tool = ToolSweep("dice")
    area = tool.add(p, truth & counted, counted)
    part = ToolSweep("dice")
    assert area == part.add(p[:10], truth[:10], counted[:10])
    assert tool.rows == part.rows and tool.best == part.best
    assert tool.summary()["voxels"] == counted.sum() and tool.summary()["scores_there"]["threshold"] == tool.best


def test_empty_scans():
    nothing = np.zeros((4, 4, 4))
    tool = ToolSweep("cluster_dice")
    assert math.isnan(tool.add(nothing, nothing > 0, nothing == 0))
    assert tool.best is None and tool.summary()["scores_there"] is None
