"""A data set as labs have it: which files make a case, what the labels mean, who the subjects are."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mednext_jax.errors import InputError, Problem
from mednext_jax.io.tsv_file import read_tsv

BACKGROUND = "background"
SUBJECT = re.compile(r"sub-[A-Za-z0-9]+")

# A plain label is one value; a region is the union of several.
LabelValue = int | tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class RawCase:
    """One scan to prepare: an image file a channel, its label map, and its region map and brain mask if there are."""

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


def subject_of(case: str) -> str:
    """The subject that a case name names: its leading BIDS entity sub-LABEL, else the name itself."""
    match = SUBJECT.match(case)
    return match.group() if match else case


def read_participants(folder: Path, cases: Sequence[str]) -> dict[str, dict[str, str]]:
    """Case id -> its row of FOLDER/participants.tsv, found by case name or by subject; empty if there is no such file.

    A participant may be written with or without "sub-"; a case without a row has an empty one.
    Raises InputError if the file has no participant_id column or repeats a participant.
    """
    path = folder / "participants.tsv"
    if not path.is_file():
        return {}
    columns, rows = read_tsv(path)
    if rows and "participant_id" not in columns:
        raise InputError(
            "The participants table has no participant_id.",
            file=path,
            expected="tab-separated columns, participant_id among them",
            found=", ".join(columns),
            hint="see the BIDS specification of participants.tsv",
        )
    by_name: dict[str, dict[str, str]] = {}
    for row in rows:
        name = row["participant_id"].strip()
        if name in by_name:
            raise InputError("The participants table repeats a participant.", file=path, found=name)
        by_name[name] = row
    return {case: next((by_name[name] for name in _names(case) if name in by_name), {}) for case in cases}


def participants_problems(folder: Path, participants: Mapping[str, Mapping[str, str]]) -> list[Problem]:
    """A warning if no case has a row in the participants.tsv that is there."""
    if not participants or any(participants.values()):
        return []
    return [
        Problem(
            "No case is in the participants table.",
            str(folder / "participants.tsv"),
            expected=f"participant_id such as {subject_of(next(iter(participants)))}",
            hint="write the participants as the scans are called",
            severity="W",
        )
    ]


def _names(case: str) -> list[str]:
    """What a case may be called in a participants table, the closest name first."""
    names = [case, subject_of(case)]
    return names + [name.removeprefix("sub-") if name.startswith("sub-") else f"sub-{name}" for name in names]
