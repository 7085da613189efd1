"""The paper's tables: what is in the cells, and that no name breaks them."""

from __future__ import annotations

import math

import pytest

from mednext_jax.evaluate.publication import latex_table, markdown_table, paper_rows, undefined_notes

pytestmark = pytest.mark.core


def rows(tool="a tool", region="all"):
    place = {"tool": tool, "region": region}
    scores = [
        place | {"score": "dice", "mean": 0.7561, "sd": 0.0349},
        place | {"score": "hd95_mm", "mean": 3.21, "sd": 1.06},
        place | {"score": "recall", "mean": 0.5, "sd": math.nan},
        place | {"score": "precision", "mean": math.nan, "sd": math.nan},
    ]
    statistics = {"icc_2_1": 0.912, "icc_2_1_low": 0.8, "icc_2_1_high": 0.95, "pearson": 0.9}
    without = {"pearson_low": math.nan, "pearson_high": math.nan}
    agreement = [place | {"quantity": name, "n": 12} | statistics | without for name in ("volume_mm3", "count")]
    return scores, agreement


def test_cells_and_columns():
    head, row = paper_rows(*rows())
    cells = dict(zip(head, row, strict=True))
    assert cells["tool"] == "a tool" and cells["region"] == "whole" and cells["scans"] == "12"
    assert cells["Dice"] == "0.76 (0.03)" and cells["HD95 (mm)"] == "3.2 (1.1)" and cells["sensitivity"] == "0.50"
    assert cells["volume ICC(2,1)"] == "0.91 [0.80, 0.95]" and cells["volume r"] == "0.90"
    assert "precision" not in cells  # no value in any row


def test_markdown_holds_names_of_any_letters():
    text = markdown_table([["tool", "Dice"], ["a|b_c*", "0.5 [0, 1]"]], ["a note"])
    assert text.splitlines()[2] == r"| a\|b\_c\* | 0.5 [0, 1] |" and text.endswith("\n- a note\n")
    assert len({len(line) for line in text.splitlines()[:3]}) == 1
    assert r"[a]\(b)" in markdown_table([["[a](b)"], ["x"]])


def test_latex_escapes_what_it_would_run():
    name = r"50%_\input{x}$a^2~&#"
    text = latex_table([["tool", "Dice"], [name, "0.76 (0.03)"]], ["95 % of scans."], "Scores.")
    line = text.splitlines()[9]
    assert line == r"    50\%\_\textbackslash{}input\{x\}\$a\textasciicircum{}2\textasciitilde{}\&\# & 0.76 (0.03) \\"
    assert r"\caption{Scores. 95 \% of scans.}" in text and r"\begin{tabular}{lr}" in text
    assert r"{llr}" in latex_table([["a", "b", "c"]], words=2)


def test_names_of_files_steer_nothing():
    _, row = paper_rows(*rows("a\x1b[31m", "wm\n"))
    assert row[:2] == [r"a\x1b[31m", r"wm\n"]


def test_notes_of_empty_cases():
    empty = {"tool": "t", "region": "all", "cases": 9, "empty_in_both": 2, "empty_prediction_only": 0}
    (note,) = undefined_notes([empty | {"empty_reference_only": 1}])
    assert (
        note.startswith("t, whole: of 9 scans 2 without PVS in either mask") and "1 with none in the reference" in note
    )
    assert undefined_notes([empty | {"empty_in_both": 0, "empty_reference_only": 0}]) == []
