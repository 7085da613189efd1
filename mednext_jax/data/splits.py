"""Cross-validation splits by subject: nnU-Net's k folds, stratified folds, leave one site out, or a given file.

A split is a list of folds, each {"train": [cases], "val": [cases]}, names sorted (nnU-Net's splits_final.json).
Cases of one subject always stay together.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mednext_jax.errors import InputError, Problem
from mednext_jax.io.json_file import read_json

Fold = dict[str, list[str]]

NNUNET_SEED = 12345
DEFAULT_FOLDS = 5


def make_splits(
    spec: str | os.PathLike, subjects: Mapping[str, str], participants: Mapping[str, Mapping[str, str]] | None = None
) -> list[Fold]:
    """The folds that `spec` asks for.

    `spec`: "kfold:K" (nnU-Net's folds when each subject has one case), "stratified:COLUMN" or "stratified:COLUMN:K",
    "loso:COLUMN" (one fold per site), or the path of a splits_final.json. `subjects`: case -> subject.
    `participants`: case -> its row of participants.tsv. Raises InputError if the split cannot be made.
    """
    spec = str(spec)  # a path, perhaps
    if spec.endswith(".json"):
        return read_splits(spec, list(subjects))
    kind, _, argument = spec.partition(":")
    if kind == "kfold" and re.fullmatch(r"[0-9]{0,6}", argument):
        count = int(argument or DEFAULT_FOLDS)
        people = _people(subjects)
        _check_count(count, len(people), "subjects")
        return _folds(kfold(len(people), count), people, subjects)
    if kind == "stratified" and re.fullmatch(r"[^:]+(:[0-9]{1,6})?", argument):
        column, _, number = argument.partition(":")
        count = int(number or DEFAULT_FOLDS)
        people = _people(subjects)
        _check_count(count, len(people), "subjects")
        groups = _column(column, people, subjects, participants or {})
        return _folds(stratified_kfold([groups[person] for person in people], count), people, subjects)
    if kind == "loso" and argument:
        people = _people(subjects)
        sites = _column(argument, people, subjects, participants or {})
        names = sorted(set(sites.values()))
        _check_count(2, len(names), f"different values of {argument}")
        held_out = [[i for i, person in enumerate(people) if sites[person] == name] for name in names]
        return _folds(held_out, people, subjects)
    raise InputError(
        "The splits are not understood.",
        expected="kfold:K, stratified:COLUMN, stratified:COLUMN:K, loso:COLUMN or a splits_final.json",
        found=spec,
        hint="for example --splits kfold:5",
    )


def kfold(n: int, folds: int) -> list[list[int]]:
    """The validation indices of each fold: scikit-learn's KFold(folds, shuffle=True, random_state=12345)."""
    order = np.arange(n)
    np.random.RandomState(NNUNET_SEED).shuffle(order)
    return [sorted(int(i) for i in part) for part in np.array_split(order, folds)]


def stratified_kfold(groups: Sequence[str], folds: int) -> list[list[int]]:
    """The validation indices of each fold: scikit-learn's StratifiedKFold with nnU-Net's shuffle and seed.

    Each fold has each group's share of the whole, to within one.
    """
    names = list(dict.fromkeys(groups))  # by first appearance
    codes = np.array([names.index(group) for group in groups])
    ordered = np.sort(codes)
    share = np.array([np.bincount(ordered[i::folds], minlength=len(names)) for i in range(folds)])
    random = np.random.RandomState(NNUNET_SEED)
    fold_of = np.empty(len(codes), int)
    for code in range(len(names)):
        places = np.arange(folds).repeat(share[:, code])
        random.shuffle(places)
        fold_of[codes == code] = places
    return [[int(i) for i in np.flatnonzero(fold_of == fold)] for fold in range(folds)]


def read_splits(path: str | os.PathLike, cases: Sequence[str]) -> list[Fold]:
    """A given splits_final.json; raises InputError for unknown cases, a case in both parts, or an empty part."""
    folds = read_json(path)
    if not (isinstance(folds, list) and folds and all(_is_fold(fold) for fold in folds)):
        raise InputError(
            "The file does not hold splits.",
            file=path,
            expected='a list of {"train": [cases], "val": [cases]}',
            found=type(folds).__name__,
            hint="see nnU-Net's splits_final.json",
        )
    known, problems = set(cases), []
    for number, fold in enumerate(folds):
        train, val = set(fold["train"]), set(fold["val"])
        for what, found in (
            (f"Fold {number} names cases that the data set does not have.", (train | val) - known),
            (f"Fold {number} trains and validates on the same cases.", train & val),
        ):
            if found:
                problems.append(Problem(what, str(path), found=_some(found), hint="correct the splits file"))
        problems.extend(
            Problem(f"Fold {number} has no {part} case.", str(path), hint="correct the splits file")
            for part in ("train", "val")
            if not fold[part]
        )
    if problems:
        raise InputError.of(problems)
    return [{part: sorted(set(fold[part])) for part in ("train", "val")} for fold in folds]


def subject_leaks(folds: Sequence[Fold], subjects: Mapping[str, str]) -> list[Problem]:
    """A warning for each fold that trains and validates on the same subject."""
    problems = []
    for number, fold in enumerate(folds):
        both = {subjects[case] for case in fold["train"]} & {subjects[case] for case in fold["val"]}
        if both:
            what = f"Fold {number} trains and validates on scans of the same subject."
            hint = "keep a subject's sessions in one part, or scores come out too high"
            problems.append(Problem(what, found=_some(both), hint=hint, severity="W"))
    return problems


def _people(subjects: Mapping[str, str]) -> list[str]:
    """The subjects in the order of their first case, which is nnU-Net's order when each has one."""
    return list(dict.fromkeys(subjects[case] for case in sorted(subjects)))


def _folds(held_out: Sequence[Sequence[int]], people: Sequence[str], subjects: Mapping[str, str]) -> list[Fold]:
    folds = []
    for indices in held_out:
        out = {people[i] for i in indices}
        folds.append(
            {
                "train": sorted(case for case, person in subjects.items() if person not in out),
                "val": sorted(case for case, person in subjects.items() if person in out),
            }
        )
    return folds


def _column(
    column: str, people: Sequence[str], subjects: Mapping[str, str], participants: Mapping[str, Mapping[str, str]]
) -> dict[str, str]:
    """Subject -> its value in a column of participants.tsv."""
    values: dict[str, set[str]] = {person: set() for person in people}
    for case, person in subjects.items():
        values[person] |= {participants.get(case, {}).get(column, "")} - {"", "n/a"}
    problems = []
    for person, found in values.items():
        if not found:
            what = f"A subject has no value of {column!r}."
            problems.append(Problem(what, "participants.tsv", expected=f"a value for {person}"))
        elif len(found) > 1:
            what = f"A subject has several values of {column!r}, so its scans would be in two splits."
            problems.append(Problem(what, "participants.tsv", found=f"{person}: {_some(found)}"))
    if problems:
        columns = sorted({name for row in participants.values() for name in row})
        without = "participants.tsv names none of the subjects" if participants else "there is no participants.tsv"
        known = f"columns there: {', '.join(columns)}" if columns else without
        raise InputError.of([*problems, Problem("The splits need a column of participants.tsv.", hint=known)])
    return {person: found.pop() for person, found in values.items()}


def _check_count(folds: int, there: int, what: str) -> None:
    if not 2 <= folds <= there:
        raise InputError(
            "The data set cannot be split this way.",
            expected=f"2 or more folds, and at least as many {what}",
            found=f"{folds} folds, {there} {what}",
            hint="ask for fewer folds, for example --splits kfold:2" if folds > there >= 2 else None,
        )


def _is_fold(fold: Any) -> bool:
    return isinstance(fold, dict) and all(
        isinstance(fold.get(part), list) and all(isinstance(case, str) for case in fold[part])
        for part in ("train", "val")
    )


def _some(names: set[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
