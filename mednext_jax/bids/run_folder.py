"""The folder in which one call segments its participants, and how what is done takes its place in the derivative."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import secrets
import shutil
from pathlib import Path
from typing import Any

from mednext_jax.errors import InputError
from mednext_jax.io.atomic import atomic_file
from mednext_jax.io.bids_selection import BidsSelection
from mednext_jax.io.json_file import read_json
from mednext_jax.io.nifti_names import files_below
from mednext_jax.io.scan_list import RECORD

WORK = ".mednext-jax"
LOGS = "logs"
# What a run says of itself, for the group and for the user.
_SAID = re.compile(r"(volumes|failed)\.tsv|(prediction|scans)\.json|.*\.log")


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """One call's folder in the derivative `output`; the same selection has the same `name`."""

    output: Path
    name: str

    @classmethod
    def of(cls, output: Path, selection: BidsSelection) -> RunFolder:
        """The folder of a selection: `all`, `sub-01`, `sub-01_ses-2`, or of more labels with a hash."""
        labels = [*(f"sub-{x}" for x in selection.participants), *(f"ses-{x}" for x in selection.sessions)]
        filters = {
            suffix: {entity: dataclasses.asdict(wanted) for entity, wanted in entities.items()}
            for suffix, entities in selection.filters.items()
        }
        name = "_".join(labels) or "all"
        if filters or len(selection.participants) > 1 or len(selection.sessions) > 1:
            digest = hashlib.sha256(json.dumps([labels, filters], sort_keys=True).encode()).hexdigest()
            name = f"{labels[0] if labels else 'all'}_{digest[:10]}"
        return cls(output, name)

    @property
    def path(self) -> Path:
        """Where the call segments."""
        return self.output / WORK / self.name

    def place(self) -> bool:
        """Give the files of all scans that are done their places in the derivative; whether there are any.

        They are links to the files of the run, so that they take no space twice and the run can go on. Raises
        InputError if the models are not those of the rest of the derivative.
        """
        if not (self.path / RECORD).is_file():
            return False
        self._require_same_models()
        for folder in sorted(self.path.glob("sub-*")):
            for path in files_below(folder):
                _link(path, self.output / path.relative_to(self.path), self.path)
        for path in sorted(self.path.iterdir()):
            if path.is_file() and _SAID.fullmatch(path.name):
                with atomic_file(self.output / LOGS / self.name / path.name) as temporary:
                    shutil.copyfile(path, temporary)
        return True

    def _require_same_models(self) -> None:
        ours = _models(self.path / RECORD)
        for other in sorted((self.output / LOGS).glob(f"*/{RECORD}")):
            if (theirs := _models(other)) != ours:
                raise InputError(
                    "The derivative was made with other models; what this call made is not placed there.",
                    file=self.output,
                    expected=f"sha256 {', '.join(map(str, theirs))}, as in {other}",
                    found=f"{', '.join(map(str, ours))}, in {self.path}",
                    hint="name another output",
                )


def _models(record: Path) -> list[Any]:
    content = read_json(record)
    try:
        return [model["sha256"] for model in content["models"]]
    except (KeyError, TypeError):
        raise InputError("The record of a run is not understood.", file=record) from None


def _link(source: Path, target: Path, beside: Path) -> None:
    """Make `target` the same file as `source`, in one step; `beside`: a folder on the same disk for a moment."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samefile(source, target):
            return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside / f".placing-{secrets.token_hex(8)}"
    try:
        os.link(source, temporary)
    except OSError:  # a file system without links
        with atomic_file(target) as copy:
            shutil.copy2(source, copy)
        return
    try:
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
