"""Which scans of a BIDS data set are wanted: participants, sessions, and filter files as fMRIPrep reads them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mednext_jax.errors import InputError
from mednext_jax.io.json_file import read_json
from mednext_jax.io.nifti_names import few, is_nifti_name, stem

# PyBIDS's names of entities, and those in file names.
ENTITIES = {
    "subject": "sub",
    "session": "ses",
    "acquisition": "acq",
    "ceagent": "ce",
    "reconstruction": "rec",
    "run": "run",
    "echo": "echo",
    "part": "part",
}
# What is no entity of a name but the same for all anatomical scans.
FIXED = {"datatype": ("anat",), "extension": ("nii", "nii.gz", ".nii", ".nii.gz")}
NUMBERS = ("run", "echo")
ABSENT, ANY = "Query.NONE", ("*", "Query.ANY", "Query.REQUIRED")
OPTIONAL = "Query.OPTIONAL"


@dataclasses.dataclass(frozen=True)
class EntityFilter:
    """Which values of an entity are wanted: none, any, or those that are listed."""

    absent: bool
    any_value: bool
    values: tuple[str | int, ...]

    def takes(self, value: str | int | None) -> bool:
        """Whether a value, None if the name has no such entity, is wanted."""
        return self.absent if value is None else self.any_value or value in self.values


@dataclasses.dataclass(frozen=True)
class BidsSelection:
    """Scans of a data set. participants, sessions: labels without sub- and ses-; none of them: all.

    filters: contrast (T1w, T2w, FLAIR) -> entity as in file names -> its values.
    """

    participants: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    filters: Mapping[str, Mapping[str, EntityFilter]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        participants: Iterable[str] = (),
        sessions: Iterable[str] = (),
        filter_file: str | Path | None = None,
    ) -> BidsSelection:
        """The selection of these labels, with or without sub- and ses-, and of a filter file.

        Raises InputError for a file that is no filter or names what anatomical scans do not have.
        """
        return cls(
            _labels("sub-", participants),
            _labels("ses-", sessions),
            {} if filter_file is None else _read_filters(Path(filter_file)),
        )

    def takes(self, path: Path, suffix: str) -> bool:
        """Whether a scan with this name and contrast is wanted."""
        found = entities_of(path)
        if self.participants and found.get("sub") not in self.participants:
            return False
        if self.sessions and found.get("ses") not in self.sessions:
            return False
        wanted = self.filters.get(suffix, {})
        return all(one.takes(_value(entity, found.get(entity))) for entity, one in wanted.items())

    def require_participants(self, root: Path) -> None:
        """Raise InputError if the data set has no folder of a participant."""
        missing = [label for label in self.participants if not (root / f"sub-{label}").is_dir()]
        if missing:
            there = sorted(path.name.removeprefix("sub-") for path in root.glob("sub-*") if path.is_dir())
            raise InputError(
                "The data set has no such participant.",
                file=root,
                expected=f"labels such as {few(there)}" if there else "folders sub-*",
                found=few(missing),
                hint="check --participant-label",
            )


def entities_of(path: Path) -> dict[str, str]:
    """The entities of a BIDS file name: sub-01_ses-2_T2w.nii.gz -> {"sub": "01", "ses": "2"}."""
    parts = (stem(path) if is_nifti_name(path) else path.name.split(".")[0]).split("_")
    return dict(part.split("-", 1) for part in parts if "-" in part)


def _labels(prefix: str, labels: Iterable[str]) -> tuple[str, ...]:
    found = sorted({label.removeprefix(prefix) for label in labels})
    if wrong := [label for label in found if not label or "/" in label or label.startswith(".")]:
        raise InputError("A label is no part of a name.", expected=f"such as 01, or {prefix}01", found=few(wrong))
    return tuple(found)


def _read_filters(path: Path) -> dict[str, dict[str, EntityFilter]]:
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(value, dict) for value in content.values()):
        raise _not_understood(path, "a name or value that is no object")
    contrasts = {"t1w": "T1w", "t2w": "T2w", "flair": "FLAIR"}
    filters: dict[str, dict[str, EntityFilter]] = {}
    for name, wanted in content.items():
        suffix = wanted.get("suffix", contrasts.get(name.casefold()))
        if suffix not in contrasts.values():
            continue  # one file serves several programs: bold, fmap, sbref
        filters[suffix] = {}
        for key, value in wanted.items():
            values = value if isinstance(value, list) else [value]
            if key == "suffix" or key in FIXED and all(one in FIXED[key] for one in values):
                continue
            entity = ENTITIES.get(key, key)
            if entity not in ENTITIES.values() or not all(isinstance(one, str | int | None) for one in values):
                raise _not_understood(path, f"{name}: {key} = {value!r}")
            filters[suffix][entity] = _wants(entity, values)
    if not filters:
        raise _not_understood(path, f"only {few(sorted(content)) or 'an empty object'}")
    return filters


def _wants(entity: str, values: Sequence[Any]) -> EntityFilter:
    every = OPTIONAL in values
    listed = [_value(entity, str(value)) for value in values if value is not None]
    return EntityFilter(
        absent=every or any(value is None or value == ABSENT for value in values),
        any_value=every or any(value in ANY for value in values),
        values=tuple(value for value in listed if value is not None),
    )


def _value(entity: str, text: str | None) -> str | int | None:
    """The value of an entity; run-01 and run-1 are one."""
    if text is None:
        return None
    text = text.removeprefix(f"{entity}-")
    return int(text) if entity in NUMBERS and text.isdigit() else text


def _not_understood(path: Path, found: str) -> InputError:
    return InputError(
        "The BIDS filter file is not understood.",
        file=path,
        expected='{"t2w": {"session": "1", "acquisition": ["hires", null], "run": 1}}, entities: '
        + ", ".join(ENTITIES),
        found=found,
        hint="see docs/bids.md",
    )
