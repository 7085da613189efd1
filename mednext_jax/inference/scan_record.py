"""A small record of each scan that is done, written after all its outputs: from which files, how, and what came out.

records/CASE.json holds the sha256, size and time of each input and output, the models' sha256 and the settings, the
threshold that decided, and the scan's row of volumes.tsv. A scan is done if its record fits the input and the settings
of today, and its outputs are whole. A file whose size and time are as recorded is taken to be the same; any other is
read and its sha256 compared.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mednext_jax.errors import InputError
from mednext_jax.io.json_file import read_json


@dataclasses.dataclass(frozen=True)
class FileState:
    """What a file held: its size in bytes, when it was last changed (ns), the sha256 of its bytes."""

    bytes: int
    mtime_ns: int
    sha256: str

    @classmethod
    def of(cls, path: str | os.PathLike) -> FileState:
        """The state of a file; raises OSError."""
        with open(path, "rb") as file:
            before = os.fstat(file.fileno())  # a change while it is read shows in the time
            return cls(before.st_size, before.st_mtime_ns, hashlib.file_digest(file, "sha256").hexdigest())

    def is_of(self, path: str | os.PathLike) -> bool:
        """Whether a file holds this still."""
        try:
            now = os.stat(path)
            if now.st_size != self.bytes:
                return False
            return now.st_mtime_ns == self.mtime_ns or FileState.of(path).sha256 == self.sha256
        except OSError:
            return False


@dataclasses.dataclass(frozen=True)
class ScanRecord:
    """One scan that is done. made_with: `of_a_scan` of the run. outputs: by their paths in the output folder."""

    case: str
    inputs: tuple[FileState, ...]
    made_with: Mapping[str, Any]
    outputs: Mapping[str, FileState]
    row: Mapping[str, Any]
    threshold: float | None = None

    def text(self) -> str:
        """The record as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> ScanRecord | None:
        """The record in a file; None if there is none, or if it is not whole."""
        try:
            value = read_json(path)
            return cls(
                str(value["case"]),
                tuple(_state(one) for one in value["inputs"]),
                dict(value["made_with"]),
                {name: _state(one) for name, one in value["outputs"].items()},
                dict(value["row"]),
                None if value.get("threshold") is None else float(value["threshold"]),
            )
        except (InputError, OSError, AttributeError, KeyError, TypeError, ValueError):
            return None

    def fits(self, inputs: Sequence[Path], made_with: Mapping[str, Any]) -> bool:
        """Whether the scan would be made from the same input and in the same way today."""
        return (
            dict(made_with) == self.made_with
            and len(inputs) == len(self.inputs)
            and all(state.is_of(path) for state, path in zip(self.inputs, inputs, strict=True))
        )

    def is_whole(self, folder: Path) -> bool:
        """Whether the outputs in `folder` are those that were written."""
        return all(state.is_of(folder / name) for name, state in self.outputs.items())


def _state(value: Mapping[str, Any]) -> FileState:
    return FileState(int(value["bytes"]), int(value["mtime_ns"]), str(value["sha256"]))
