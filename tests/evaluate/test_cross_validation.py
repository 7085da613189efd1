"""The table over folds: its numbers, what it says of missing folds, and folds that do not belong together."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import shutil

import numpy as np
import pytest

from mednext_jax import main as command_line
from mednext_jax.errors import InputError
from mednext_jax.evaluate.case import evaluate_case
from mednext_jax.evaluate.cross_validation import (
    CrossValidation,
    ScoredFold,
    evaluate_cross_validation,
    markdown,
    read_cross_validation,
)
from mednext_jax.evaluate.scores_file import write_scores

pytestmark = pytest.mark.core

NAMES = {1: "white matter", 2: "basal ganglia"}
FOLD = ScoredFold(
    index="0",
    count=3,
    splits="kfold:3",
    data_set="PVS",
    data_set_sha256="ab" * 32,
    channels=("T1w",),
    spacing=(0.8, 0.8, 0.8),
    cases=("a", "b"),
)
SPLIT = {"0": ("a", "b"), "1": ("c", "d"), "2": ("e",)}


def scores(case):
    """Of a scan with 2 + n bars of 3 voxels in white matter and one in basal ganglia; n are missed, one is false."""
    n = "abcde".index(case)
    reference, prediction = np.zeros((2, 12, 16, 9), bool)
    for i in range(2 + n):
        reference[2 * i % 10, 2 * i // 10 * 2, 1:4] = True
    prediction[reference & (np.cumsum(reference).reshape(reference.shape) <= 6)] = True
    reference[3, 12, 2:5] = prediction[3, 12, 3:6] = True
    prediction[9, 9, 7] = True
    regions = np.ones(reference.shape, int)
    regions[:, 11:] = 2
    return evaluate_case(prediction, reference, 0.512, regions, NAMES)


def write(folder, fold, cases=None):
    (folder / "validation").mkdir(parents=True)
    cases = {case: scores(case) for case in fold.cases} if cases is None else cases
    write_scores(folder / "validation", cases, fold=dataclasses.asdict(fold))


@pytest.fixture
def folds(tmp_path):
    """Three folds, in folders of any name, beside a model and a run on all cases."""
    for index, cases in SPLIT.items():
        write(tmp_path / "cv" / f"machine-{index}", dataclasses.replace(FOLD, index=index, cases=cases))
    write(tmp_path / "cv" / "all", dataclasses.replace(FOLD, index="all", cases=("a", "b", "c", "d", "e")))
    (tmp_path / "cv" / "model" / "fold_0").mkdir(parents=True)
    return tmp_path / "cv"


def test_folds_of_another_release_have_fewer_scores(tmp_path):
    for index, cases in SPLIT.items():
        rows = {case: scores(case) for case in cases}
        if index == "1":  # as release 0.1.0 wrote them
            for regions in rows.values():
                for name, row in regions.items():
                    kept = {k: v for k, v in row.items() if not k.startswith(("valdo", "one_to_one")) or name == "all"}
                    regions[name] = {k: v for k, v in kept.items() if not k.endswith(("valdo_recall", "one_recall"))}
        write(tmp_path / index, dataclasses.replace(FOLD, index=index, cases=cases), rows)
    found = evaluate_cross_validation(tmp_path)
    assert found.summaries["all"]["dice"]["n"] == 5 and "valdo_recall" not in found.summaries["all"]
    assert found.summaries["all"]["valdo_dice"]["n"] == 5


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_numbers_over_all_scans(folds, capsys):
    evaluate_cross_validation(folds)
    rows = table(folds / "cross_validation" / "table.csv")
    assert [(row["design"], row["region"], row["scans"], row["folds"]) for row in rows] == [
        ("3FCV", region, "5", "3") for region in ("whole", "white matter", "basal ganglia")
    ]
    # White matter: 6 of 6, 9, 12, 15, 18 voxels in 2 of 2, 3, 4, 5, 6 clusters, and one false voxel.
    recalls = [6 / n for n in (6, 9, 12, 15, 18)]
    dices = [2 * 6 / (7 + n) for n in (6, 9, 12, 15, 18)]
    wm = rows[1]
    assert float(wm["recall_mean"]) == pytest.approx(np.mean(recalls))
    assert float(wm["recall_sd"]) == pytest.approx(np.std(recalls, ddof=1))
    assert float(wm["dice_mean"]) == pytest.approx(np.mean(dices))
    assert float(wm["cluster_recall_mean"]) == pytest.approx(np.mean(recalls))
    assert float(wm["cluster_precision_mean"]) == pytest.approx(2 / 3)
    assert wm["count_pearson"] == "" and wm["volume_mm3_pearson"] == ""  # the prediction is the same in all
    assert float(rows[2]["dice_mean"]) == pytest.approx(2 * 2 / 6) and float(rows[2]["dice_sd"]) == 0
    cases = table(folds / "cross_validation" / "cases.csv")
    assert [(row["fold"], row["case"]) for row in cases][::3] == [
        ("0", "a"), ("0", "b"), ("1", "c"), ("1", "d"), ("2", "e")
    ]  # fmt: skip

    text = (folds / "cross_validation" / "table.md").read_text()
    assert capsys.readouterr().out == text
    row = next(line for line in text.splitlines() if "white matter" in line)
    assert [cell.strip() for cell in row.strip("| ").split("|")][:5] == [
        "T1w", "3FCV", "white matter", "5", f"{np.mean(dices):.2f} ({np.std(dices, ddof=1):.2f})"
    ]  # fmt: skip
    assert "PVS (T1w), 3FCV: 5 scans, scored on 0.8x0.8x0.8 mm" in text and "ncomplete" not in text


def test_correlations_are_pearson_s_over_scans(folds):
    from scipy.stats import pearsonr

    moved = json.loads((folds / "machine-1" / "validation" / "summary.json").read_text())
    moved["cases"]["d"]["white matter"] |= {"count": 9, "volume_mm3": 31.5}
    (folds / "machine-1" / "validation" / "summary.json").write_text(json.dumps(moved))
    evaluate_cross_validation(folds)
    row = table(folds / "cross_validation" / "table.csv")[1]
    assert float(row["count_pearson"]) == pytest.approx(pearsonr([3, 3, 3, 9, 3], [2, 3, 4, 5, 6]).statistic)
    volume = 7 * 0.8**3
    expected = pearsonr([volume, volume, volume, 31.5, volume], [6, 9, 12, 15, 18]).statistic
    assert float(row["volume_mm3_pearson"]) == pytest.approx(expected)


def test_a_missing_fold_is_named_and_comes_in_later(folds, tmp_path):
    (folds / "machine-2").rename(tmp_path / "elsewhere")
    (folds / "machine-2").mkdir()  # being trained
    assert evaluate_cross_validation(folds).missing == (2,)
    text = (folds / "cross_validation" / "table.md").read_text()
    assert "**Incomplete: 3FCV (T1w) lacks fold 2 of 0 to 2**" in text and "4 scans" in text
    assert {row["folds"] for row in table(folds / "cross_validation" / "table.csv")} == {"2"}
    (tmp_path / "elsewhere" / "validation").rename(folds / "machine-2" / "validation")
    assert evaluate_cross_validation(folds).missing == ()
    assert "ncomplete" not in (folds / "cross_validation" / "table.md").read_text()


def test_scores_of_nothing_by_nothing_are_left_out_and_counted(tmp_path):
    empty = np.zeros((4, 4, 4), bool)
    cases = {"a": scores("a"), "b": evaluate_case(empty, empty, 1.0, empty.astype(int), NAMES)}
    write(tmp_path / "run", dataclasses.replace(FOLD, count=1), cases)
    found = read_cross_validation(tmp_path)
    assert math.isnan({case: regions for _, case, regions in found.scores}["b"]["basal ganglia"]["dice"])
    assert "T1w, 1FCV, basal ganglia: voxel Dice of 1 scans" in markdown([found])


@pytest.mark.parametrize(
    ("splits", "design"),
    [
        ("kfold", "3FCV"),
        ("kfold:3", "3FCV"),
        ("loso:site", "LOSOCV"),
        ("stratified:site:3", "3FCV, stratified by site"),
        ("splits_final.json", "3FCV, given splits"),
    ],
)
def test_designs(splits, design):
    assert CrossValidation(dataclasses.replace(FOLD, splits=splits), (), ()).design == design


def test_several_designs_in_one_table(folds, tmp_path):
    for index, cases in SPLIT.items():
        write(tmp_path / "loso" / index, dataclasses.replace(FOLD, index=index, cases=cases, splits="loso:site"))
    lines = markdown([read_cross_validation(folds), read_cross_validation(tmp_path / "loso")]).splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:8]] == ["3FCV"] * 3 + ["LOSOCV"] * 3


def refused(folder):
    with pytest.raises(InputError) as error:
        evaluate_cross_validation(folder)
    assert not (folder / "cross_validation").exists()
    return str(error.value)


def test_no_folds(tmp_path):
    assert "no folder" in refused(tmp_path / "nowhere")
    assert "no validated fold" in refused(tmp_path)
    write(tmp_path / "all", dataclasses.replace(FOLD, index="all"))
    assert "all with fold=all" in refused(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data_set": "WMH"}, "different data sets"),
        ({"splits": "loso:site"}, "different splits"),
        ({"count": 4}, "different splits"),
        ({"data_set_sha256": "cd" * 32}, "prepared otherwise"),
        ({"index": "0"}, "there twice"),
        ({"index": "3"}, "not one of its splits"),
        ({"cases": ("c", "d", "z")}, "not scored its validation cases"),
    ],
)
def test_folds_that_do_not_belong_together(folds, changes, words):
    shutil.rmtree(folds / "machine-1")
    fold = dataclasses.replace(FOLD, index="1", cases=("c", "d"))
    write(folds / "machine-1", dataclasses.replace(fold, **changes), {case: scores(case) for case in fold.cases})
    said = refused(folds)
    assert words in said and "machine-" in said


def test_a_fold_without_a_validation_case(folds):
    path = folds / "machine-1" / "validation" / "summary.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"cases": {}, "fold": content["fold"] | {"cases": []}}))
    assert "Fold 1 has no validation case" in refused(folds)


@pytest.mark.parametrize(
    "changes",
    [{"index": "²"}, {"index": "9" * 5000}, {"count": 2**40}, {"count": True}, {"count": 0}, {"spacing": ("a",) * 3}],
    ids=str,
)
def test_a_fold_of_impossible_numbers_is_refused(folds, changes):
    """Such as one of 2 ** 40 folds, of which all but a few would be listed as missing."""
    write(folds / "hostile", dataclasses.replace(FOLD, **changes))
    with pytest.raises(InputError, match="which fold they are of"):
        read_cross_validation(folds)


def test_names_steer_no_terminal(tmp_path, capsys):
    write(tmp_path / "run", dataclasses.replace(FOLD, data_set="A\x1b[2JB", channels=("T1w\x1b[31m",)))
    evaluate_cross_validation(tmp_path)
    text = (tmp_path / "cross_validation" / "table.md").read_text()
    assert capsys.readouterr().out == text and "\x1b" not in text and r"A\x1b[2JB" in text


def test_other_regions(folds):
    path = folds / "machine-1" / "validation" / "summary.json"
    content = json.loads(path.read_text())
    del content["cases"]["c"]["basal ganglia"], content["cases"]["d"]["basal ganglia"]
    path.write_text(json.dumps(content))
    assert "not scored in the same regions" in refused(folds)


def test_files_that_cannot_be_read_are_reported_together(folds):
    texts = {"machine-0": "{", "machine-1": '{"cases": {"c": {"all": {"dice": "high"}}}}', "machine-2": "[]"}
    for run, text in texts.items():
        (folds / run / "validation" / "summary.json").write_text(text)
    said = refused(folds)
    assert all(run in said for run in texts)
    (folds / "machine-0" / "validation" / "summary.json").unlink()
    for run in ("machine-1", "machine-2"):
        shutil.rmtree(folds / run)
    path = folds / "all" / "validation" / "summary.json"
    content = json.loads(path.read_text())
    for wrong in (None, {"index": "0"}, content["fold"] | {"index": 7}, content["fold"] | {"more": 1}):
        path.write_text(json.dumps(content | {"fold": wrong}))
        assert "do not say which fold" in refused(folds)


def test_command_line(folds, tmp_path, capsys):
    assert command_line.main(["evaluate", "--cv", str(folds), "-o", str(tmp_path / "tables")]) == 0
    assert "basal ganglia" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == ["cases.csv", "table.csv", "table.md"]
    for wrong in (["--cv", str(folds), "-p", "masks"], ["-p", "masks"], ["--cv", str(tmp_path / "none")]):
        assert command_line.main(["evaluate", *wrong]) == 2
