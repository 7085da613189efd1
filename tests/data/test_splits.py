"""Splits: nnU-Net's own folds, stratified and by site, subjects never torn apart, given files checked."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mednext_jax.data.splits import kfold, make_splits, read_splits, stratified_kfold, subject_leaks
from mednext_jax.errors import InputError

pytestmark = pytest.mark.core

TEN = {f"case_{i:02d}": f"case_{i:02d}" for i in range(10)}


def values(folds):
    return [[case[-2:] for case in fold["val"]] for fold in folds]


def test_kfold_is_nnunets():
    folds = make_splits("kfold:5", TEN)
    assert values(folds) == [["00", "07"], ["03", "09"], ["04", "06"], ["01", "08"], ["02", "05"]]
    for fold in folds:
        assert sorted(fold["train"] + fold["val"]) == sorted(TEN) and fold["train"] == sorted(fold["train"])
    assert make_splits("kfold", dict(reversed(TEN.items()))) == folds


@pytest.mark.parametrize("n", [5, 13, 40])
@pytest.mark.parametrize("count", [2, 5])
def test_equal_to_scikit_learn(n, count):
    selection = pytest.importorskip("sklearn.model_selection")
    peer = selection.KFold(count, shuffle=True, random_state=12345)
    assert kfold(n, count) == [sorted(map(int, held)) for _, held in peer.split(range(n))]
    groups = [["x", "a", "q"][i] for i in np.random.default_rng(n).integers(0, 3, 4 * n)]
    peer = selection.StratifiedKFold(count, shuffle=True, random_state=12345)
    assert stratified_kfold(groups, count) == [list(map(int, held)) for _, held in peer.split(groups, groups)]


def test_sessions_of_a_subject_stay_together():
    subjects = {f"sub-{i:02d}_ses-{s}": f"sub-{i:02d}" for i in range(6) for s in range(1 + i % 3)}
    for spec in ("kfold:3", "stratified:sex:2"):
        rows = {case: {"sex": "F" if int(case[4:6]) < 3 else "M"} for case in subjects}
        folds = make_splits(spec, subjects, rows)
        assert not subject_leaks(folds, subjects)
        assert sorted(case for fold in folds for case in fold["val"]) == sorted(subjects)


def test_one_fold_a_site():
    rows = {case: {"site": "ABC"[int(case[-1]) % 3]} for case in TEN}
    assert values(make_splits("loso:site", TEN, rows)) == [
        ["00", "03", "06", "09"],
        ["01", "04", "07"],
        ["02", "05", "08"],
    ]


def test_stratified_folds_hold_their_share():
    rows = {case: {"site": "A" if case < "case_04" else "B"} for case in TEN}
    for fold in make_splits("stratified:site:2", TEN, rows):
        assert sum(rows[case]["site"] == "A" for case in fold["val"]) == 2


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("kfold:11", "11 folds, 10 subjects"),
        ("kfold:1", "1 folds"),
        ("kfold:x", "not understood"),
        ("leave-one-out", "not understood"),
        ("loso:", "not understood"),
        ("loso:scanner", r"A subject has no value of 'scanner'[\s\S]*case_00"),
        ("loso:one", "1 different values of one"),
        ("nowhere.json", "missing"),
    ],
)
def test_splits_that_cannot_be_made(spec, words):
    with pytest.raises(InputError, match=words):
        make_splits(spec, TEN, {case: {"one": "A"} for case in TEN})


def test_a_table_that_names_no_subject_is_not_a_missing_table():
    subjects = {"sub-1": "sub-1", "sub-2": "sub-2"}
    with pytest.raises(InputError, match=r"participants\.tsv names none of the subjects"):
        make_splits("loso:site", subjects, {"sub-1": {}, "sub-2": {}})
    with pytest.raises(InputError, match=r"there is no participants\.tsv"):
        make_splits("loso:site", subjects, {})


def test_a_subject_whose_site_is_known_of_one_scan_only_has_it():
    subjects = {"sub-1_ses-1": "sub-1", "sub-1_ses-2": "sub-1", "sub-2": "sub-2"}
    folds = make_splits("loso:site", subjects, {"sub-1_ses-1": {"site": "A"}, "sub-2": {"site": "B"}})
    assert [fold["val"] for fold in folds] == [["sub-1_ses-1", "sub-1_ses-2"], ["sub-2"]]


def test_a_subject_at_two_sites_is_named():
    subjects = {"sub-1_ses-1": "sub-1", "sub-1_ses-2": "sub-1", "sub-2": "sub-2"}
    rows = {"sub-1_ses-1": {"site": "A"}, "sub-1_ses-2": {"site": "B"}, "sub-2": {"site": "A"}}
    with pytest.raises(InputError, match=r"A subject has several values of 'site'[\s\S]*sub-1: A, B"):
        make_splits("loso:site", subjects, rows)


def write(tmp_path, content):
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps(content))
    return path


def test_a_given_file_is_taken(tmp_path):
    path = write(tmp_path, [{"train": ["case_03", "case_01"], "val": ["case_02"]}])
    assert make_splits(str(path), TEN) == [{"train": ["case_01", "case_03"], "val": ["case_02"]}]


def test_every_problem_of_a_given_file_is_reported(tmp_path):
    path = write(tmp_path, [{"train": ["case_01", "other"], "val": ["case_01"]}, {"train": ["case_01"], "val": []}])
    with pytest.raises(InputError) as error:
        read_splits(path, list(TEN))
    assert [problem.what for problem in error.value.problems] == [
        "Fold 0 names cases that the data set does not have.",
        "Fold 0 trains and validates on the same cases.",
        "Fold 1 has no val case.",
    ]


@pytest.mark.parametrize(
    "content", [{}, [], [{"train": ["a"]}], [{"train": "a", "val": "b"}], [{"train": [1], "val": [2]}]]
)
def test_other_json_is_not_a_split(tmp_path, content):
    with pytest.raises(InputError, match="does not hold splits"):
        read_splits(write(tmp_path, content), list(TEN))


def test_a_leak_between_sessions_is_a_warning():
    (problem,) = subject_leaks([{"train": ["a1"], "val": ["a2"]}], {"a1": "a", "a2": "a"})
    assert problem.severity == "W" and problem.found == "a"


def test_the_path_of_a_splits_file_may_be_a_path(tmp_path):
    file = tmp_path / "splits_final.json"
    file.write_text(json.dumps([{"train": ["a"], "val": ["b"]}]))
    assert make_splits(file, {"a": "a", "b": "b"}) == [{"train": ["a"], "val": ["b"]}]
    with pytest.raises(InputError, match="not understood"):
        make_splits(None, {"a": "a", "b": "b"})
