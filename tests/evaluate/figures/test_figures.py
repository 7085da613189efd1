"""Figures: files of both kinds, what is drawn in them, names that matplotlib would take for formulas."""

from __future__ import annotations

import math
import sys
import xml.etree.ElementTree as xml

import numpy as np
import pytest

from mednext_jax.evaluate.case import evaluate_case
from mednext_jax.evaluate.figures.figure_file import figure, has_matplotlib, style, title_of
from mednext_jax.evaluate.figures.rater_figures import draw_rater_matrix, draw_second_rater
from mednext_jax.evaluate.figures.study_figures import draw_agreement, draw_recall_by_size, draw_scores
from mednext_jax.evaluate.figures.threshold_figures import draw_calibration, draw_froc, draw_sweep
from mednext_jax.evaluate.study import score_rows
from mednext_jax.evaluate.thresholds.calibration import Calibration
from mednext_jax.evaluate.thresholds.sweep import ScanSweep, sweep_rows

pytestmark = pytest.mark.core
matplotlib = pytest.importorskip("matplotlib")
NAME = "$\\frac{1}$ <b>&\x1b"


def texts(folder, name):
    """All texts of an SVG; the PNG beside it must be a picture with something on it."""
    assert matplotlib.image.imread(folder / f"{name}.png").std() > 0.02
    return [
        element.text for element in xml.parse(folder / f"{name}.svg").iter() if element.text and element.text.strip()
    ]


@pytest.fixture(scope="module")
def tools():
    found = {}
    for tool, flip in ((NAME, 0.004), ("other", 0.03)):
        found[tool] = {}
        for case in range(5):
            rng = np.random.default_rng(case)
            truth = rng.random((10, 11, 12)) < 0.01 + 0.01 * case
            predicted = truth ^ (rng.random(truth.shape) < flip)
            found[tool][f"{case}"] = evaluate_case(predicted, truth, 1.0, axes=np.eye(3))
    return found


def test_scores_of_every_tool(tmp_path, tools):
    draw_scores(tmp_path, tools, score_rows(tools))
    found = texts(tmp_path, "scores")
    assert "cluster Dice" in found and "other" in found and "$\\frac{1}$ <b>&\\x1b" in found


def test_bland_altman_has_its_limits(tmp_path, tools):
    for quantity, name in (("volume_mm3", "bland_altman_volume"), ("count", "bland_altman_count")):
        draw_agreement(tmp_path, tools, quantity)
        found = texts(tmp_path, name)
        pair = np.array([(c["all"][quantity], c["all"][f"reference_{quantity}"]) for c in tools["other"].values()])
        bias = (pair[:, 0] - pair[:, 1]).mean()
        assert {"bias", f"{bias:.4g}", "−1.96 SD", "+1.96 SD"} <= set(found)


def test_one_scan_has_no_limits(tmp_path, tools):
    draw_agreement(tmp_path, {"tool": {"0": tools["other"]["0"]}}, "count")
    assert not any("SD" in text for text in texts(tmp_path, "bland_altman_count"))


def test_recall_by_size(tmp_path, tools):
    draw_recall_by_size(tmp_path, score_rows(tools))
    assert {"0–5", "5–10", "10–15", "≥ 15"} <= set(texts(tmp_path, "recall_by_size"))


def test_thresholds_and_calibration(tmp_path):
    rng = np.random.default_rng(0)
    truth = rng.random((12, 12, 12)) < 0.05
    p = np.clip(0.5 * truth + 0.5 * rng.random(truth.shape), 0, 1)
    rows = {NAME: sweep_rows([ScanSweep.of(p, truth)]), "other": sweep_rows([ScanSweep.of(p / 2, truth)])}
    draw_sweep(tmp_path, rows, {NAME: 0.35, "other": None})
    assert "chosen: 0.35" in texts(tmp_path, "threshold_sweep")
    draw_froc(tmp_path, rows)
    assert "false clusters a scan" in texts(tmp_path, "froc")
    calibration = Calibration.of(p, truth)
    draw_calibration(tmp_path, {"other": calibration})
    assert f"other, ECE {calibration.doubtful_error:.3f}" in texts(tmp_path, "calibration")


def test_raters(tmp_path):
    pair = {"region": "all", "cluster_dice_mean": math.nan, "dice_mean": 0.734}
    rows = [{"first": "A", "second": "B"} | pair, {"first": NAME, "second": "STAPLE"} | pair]
    draw_rater_matrix(tmp_path, [*rows, rows[0] | {"region": "thalamus", "dice_mean": 0.5}])
    assert texts(tmp_path, "raters").count("0.73") == 4
    row = {"region": "all", "tool": "t", "against": "raters", "difference": -0.1, "low": -0.2, "high": 0.05}
    draw_second_rater(tmp_path, [row | {"score": "dice"}, row | {"score": "cluster_dice", "low": math.nan}])
    assert "t, voxel Dice, raters" in texts(tmp_path, "second_rater")
    draw_second_rater(tmp_path / "regions", [row | {"score": "dice", "region": "thalamus"}])
    assert "thalamus: t, voxel Dice, raters" in texts(tmp_path / "regions", "second_rater")


def test_the_same_numbers_are_the_same_bytes(tmp_path):
    for folder in ("a", "b"):
        with figure(tmp_path / folder, "f", 1, 1, (2, 2)) as (_, axes):
            axes[0, 0].plot([0, 1], [0, 1], label="x", **style(0))
            axes[0, 0].legend()
    assert (tmp_path / "a" / "f.svg").read_bytes() == (tmp_path / "b" / "f.svg").read_bytes()
    assert (tmp_path / "a" / "f.png").read_bytes() == (tmp_path / "b" / "f.png").read_bytes()


def test_tools_differ_without_colour():
    looks = [(style(i)["marker"], style(i)["linestyle"]) for i in range(7)]
    assert len(set(looks)) == 7 and style(7) == style(0)
    assert len(title_of("x" * 90)) == 40


def test_without_matplotlib(monkeypatch):
    assert has_matplotlib()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not has_matplotlib()
