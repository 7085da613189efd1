"""A data set as labs have it: which files make a case, what the labels mean, who the subjects are."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mednext_jax.errors import InputError, Problem
from mednext_jax.io.absent import is_named
from mednext_jax.io.nifti_names import few
from mednext_jax.io.table_file import read_table

BACKGROUND = "background"
SUBJECT = re.compile(r"sub-[^_]+")  # BIDS has letters and digits; people also have sub-HC-001, sub-é

# A plain label is one value; a region is the union of several.
LabelValue = int | tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class RawCase:
    """A scan to prepare: one image file per channel, its label map, and its region map and brain mask if there are."""

    id: str
    images: tuple[Path, ...]
    label: Path
    subject: str
    regions: Path | None = None
    brain: Path | None = None


@dataclasses.dataclass(frozen=True)
class RawDataset:
    """A data set on disk. `problems` were found while listing it and are to be reported with those of the files."""

    name: str
    root: Path
    channel_names: tuple[str, ...]
    labels: dict[str, LabelValue]  # name -> value, or the values of a region; the ignore label is not among them
    ignore_label: int | None
    regions_class_order: tuple[int, ...] | None
    cases: tuple[RawCase, ...]  # sorted by id
    participants: dict[str, dict[str, str]]  # case id -> its row of participants.tsv
    problems: tuple[Problem, ...] = ()
    regions: dict[str, int] = dataclasses.field(default_factory=dict)  # name -> value in the region maps

    @property
    def label_values(self) -> set[int]:
        """Every value that a label map may hold."""
        values = {0} if self.ignore_label is None else {0, self.ignore_label}
        for value in self.labels.values():
            values |= set(value) if isinstance(value, tuple) else {value}
        return values

    @property
    def subjects(self) -> dict[str, str]:
        """Case id -> subject."""
        return {case.id: case.subject for case in self.cases}


def whole_number(value: Any) -> int | None:
    """A number from 0, also one written as text ("20"); None for anything else."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value.strip()):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def subject_of(case: str) -> str:
    """The subject that a case name names: its leading BIDS entity sub-LABEL, else the name itself."""
    match = SUBJECT.match(case)
    return match.group() if match else case


def read_participants(folder: Path, cases: Sequence[str]) -> tuple[dict[str, dict[str, str]], list[Problem]]:
    """Case -> its row of FOLDER/participants.tsv, by case name or by subject, and warnings; nothing without the file.

    A participant may be written with or without "sub-"; a case without a row has an empty one. Of a participant with
    several rows (one a session) what they agree in is taken. Only some splits need the table, so what is wrong with it
    stops nothing else.
    """
    path = folder / "participants.tsv"
    if not is_named(path):
        return {}, []
    nobody: dict[str, dict[str, str]] = {case: {} for case in cases}
    try:
        columns, cells = read_table(path)
    except InputError as error:
        return nobody, [dataclasses.replace(problem, severity="W") for problem in error.problems]
    rows = [{name: cell.strip() for name, cell in row.items()} for row in cells]
    key = next((name for name in columns if name.casefold() == "participant_id"), None)
    if key is None or not rows:
        what = f"The participants table has no {'participant_id' if rows else 'rows'}."
        expected = "columns with tabs, participant_id among them"
        hint = "see the BIDS specification of participants.tsv"
        return nobody, [Problem(what, str(path), expected, ", ".join(columns) or None, hint, "W")]
    by_name: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_name.setdefault(row[key], []).append(row)
    agreed = {
        name: {c: v for c, v in some[0].items() if all(o[c] == v for o in some)} for name, some in by_name.items()
    }
    problems = []
    for name, some in by_name.items():
        if differing := [column for column in some[0] if column not in agreed[name]]:
            what, expected = "The rows of a participant differ; what differs is left out.", "one row a participant"
            problems.append(Problem(what, str(path), expected, f"{name}: {', '.join(differing)}", severity="W"))
    found = {case: next((agreed[name] for name in _names(case) if name in agreed), {}) for case in cases}
    if cases and not any(found.values()):
        what, hint = "No case is in the participants table.", "write the participants as the scans are called"
        expected = f"participant_id such as {subject_of(cases[0])}"
        problems.append(Problem(what, str(path), expected, few(list(by_name)), hint, "W"))
    return found, problems


def _names(case: str) -> list[str]:
    """What a case may be called in a participants table, the closest name first."""
    names = [case, subject_of(case)]
    return names + [name.removeprefix("sub-") if name.startswith("sub-") else f"sub-{name}" for name in names]
