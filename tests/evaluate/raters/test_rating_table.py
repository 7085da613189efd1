"""Tables of visual scores: reading, what is refused, and agreement against scikit-learn and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mednext_jax.errors import InputError
from mednext_jax.evaluate.raters.rating_table import MEDIAN, read_visual_scores, visual_rows

pytestmark = pytest.mark.core


def write(path, *rows, delimiter="\t"):
    path.write_text("\n".join(delimiter.join(map(str, row)) for row in rows) + "\n")
    return path


@pytest.fixture
def table(tmp_path):
    """Twenty scans, two regions, three raters, and a tool's own grade."""
    rng = np.random.default_rng(0)
    rows = [("participant_id", "region", "R1", "R2", "R3", "tool")]
    for case in range(20):
        for region in ("bg", "wm"):
            grade = rng.integers(0, 5)
            rows.append((f"sub-{case}", region, *(int(np.clip(grade + rng.integers(-1, 2), 0, 4)) for _ in range(4))))
    return write(tmp_path / "scores.tsv", *rows)


def test_agreement_of_raters_and_of_a_tool_s_grade(table):
    visual = read_visual_scores(table)
    assert visual.columns == ("R1", "R2", "R3", "tool") and visual.regions == ["bg", "wm"] and len(visual.cases) == 20
    rows = {(row["region"], row["first"], row["second"]): row for row in visual_rows(visual, ["tool"])}
    assert [key[1:] for key in rows if key[0] == "bg"] == [
        ("all raters", ""),
        *(("R1", "R2"), ("R1", "R3"), ("R2", "R3")),
        *(("tool", "R1"), ("tool", "R2"), ("tool", "R3"), ("tool", MEDIAN)),
    ]
    values = np.array([[visual.scores[f"sub-{c}", "wm"][name] for name in visual.columns] for c in range(20)])
    row = rows["wm", "tool", MEDIAN]
    assert row["spearman"] == pytest.approx(stats.spearmanr(values[:, 3], np.median(values[:, :3], 1)).statistic)
    metrics = pytest.importorskip("sklearn.metrics")
    for kind in ("linear", "quadratic"):
        expected = metrics.cohen_kappa_score(values[:, 0].astype(int), values[:, 1].astype(int), weights=kind)
        assert rows["wm", "R1", "R2"][f"kappa_{kind}"] == pytest.approx(expected, abs=1e-9)


def test_counts_of_a_tool_are_ranked_against_the_scores(table):
    visual = read_visual_scores(table)
    counts = {("mine", case, "bg"): 10 * visual.scores[case, "bg"]["R1"] + 3 for case in visual.cases[:15]}
    rows = {(row["region"], row["first"], row["second"]): row for row in visual_rows(visual, ["mine"], counts)}
    row = rows["bg", "mine (count)", "R1"]
    assert row["spearman"] == pytest.approx(1) and row["scans"] == 15 and "kappa_linear" not in row
    assert math.isnan(rows["wm", "mine (count)", "R1"]["spearman"])


def test_missing_scores_are_left_out_pair_by_pair(tmp_path):
    rows = [("case", "A", "B"), ("1", 0, 0), ("2", 1, 1), ("3", "n/a", 3), ("4", 2, ""), ("5", 3, 3)]
    found = visual_rows(read_visual_scores(write(tmp_path / "t.csv", *rows, delimiter=",")))
    assert [(row["first"], row["scans"]) for row in found] == [("all raters", 3), ("A", 3)]
    assert found[1]["kappa_quadratic"] == 1
    # The consensus of two is the lower one; of incomplete rows there is none.
    rows = [("case", "A", "B", "t"), *((str(i), i, i + 1, i) for i in range(4)), ("9", "", 2, 2)]
    found = visual_rows(read_visual_scores(write(tmp_path / "u.tsv", *rows)), ["t"])
    assert found[-1]["second"] == MEDIAN and found[-1]["kappa_linear"] == 1 and found[-1]["scans"] == 4


def test_scores_that_are_counts_have_no_kappa(tmp_path):
    rows = [("case", "A", "B"), ("1", 40, 38), ("2", 11, 12), ("3", 3, 5)]
    row = visual_rows(read_visual_scores(write(tmp_path / "t.tsv", *rows)))[1]
    assert "kappa_linear" not in row and row["icc_2_1"] > 0.9


@pytest.mark.parametrize(
    "rows, words",
    [
        ([("subject", "A", "B"), ("1", 0, 1)], "case or participant_id"),
        ([("case", "A"), ("1", 0)], "Fewer than two raters"),
        ([("case", "A", "A"), ("1", 0, 1)], "'A'"),
        ([("case", "A", ""), ("1", 0, 1)], "no name"),
        ([("case", "A", "B"), ("1", 0, "x")], "row 1, B: x"),
        ([("case", "A", "B"), ("1", 0, -1)], "row 1, B: -1"),
        ([("case", "A", "B"), ("1", 0, "inf")], "from 0 on"),
        ([("case", "A", "B"), ("1", 0, 1), ("1", 0, 1)], "row 2: 1"),
        ([("case", "A", "B")], "no rows"),
        ([()], "none"),
    ],
)
def test_tables_that_are_refused(tmp_path, rows, words):
    with pytest.raises(InputError) as error:
        read_visual_scores(write(tmp_path / "t.tsv", *rows))
    assert words in str(error.value) and "t.tsv" in str(error.value)


def test_files_that_are_no_table(tmp_path):
    (tmp_path / "b.tsv").write_bytes(bytes(range(256)))
    with pytest.raises(InputError):
        read_visual_scores(tmp_path / "b.tsv")
    for absent in (tmp_path / "absent.tsv", tmp_path):
        with pytest.raises(InputError):
            read_visual_scores(absent)
