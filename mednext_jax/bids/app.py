"""The command: participants are segmented into a derivative, each call in a folder of its own; the group is merged.

Many calls may share an output folder at the same time, as clusters start them, one per participant. So each segments
into OUT/.mednext-jax/NAME, where the same call goes on if it was stopped, and what is done is placed into OUT.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mednext_jax.bids.description import describe
from mednext_jax.bids.group import merge_group
from mednext_jax.bids.run_folder import WORK, RunFolder
from mednext_jax.errors import InputError
from mednext_jax.io.atomic import atomic_file, refuse_existing
from mednext_jax.io.bids import is_bids
from mednext_jax.io.bids_selection import BidsSelection
from mednext_jax.io.json_file import read_json
from mednext_jax.io.lock import locked

LEVELS = ("participant", "group")
CLAIM_TIMEOUT = 60.0  # seconds that other calls may take to look at the output folder
_SETTINGS = "settings.json"


def run_bids_app(
    data_set: str | Path,
    output: str | Path,
    level: str,
    segment: Callable[[Path, BidsSelection], object],
    *,
    selection: BidsSelection | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Segment the participants of a BIDS data set into the derivative `output`, or merge their tables at level "group".

    segment: `predict` on the data set with all its options but these two: the folder to write into, and which scans.
    settings: those of its options that all participants must share, as JSON has them.
    Participant: masks, probabilities, tables and pages of `selection` into `output`/sub-*, and the run's tables into
    `output`/logs. Group: volumes.tsv, pvs.tsv, scans.json and report.html of all that is there.
    Raises InputError for a folder that is no BIDS data set, an output that is not of this program or was made with
    other settings, a participant that is not there, and whatever `segment` raises, after what is done is in its place.
    """
    data_set, output, selection = Path(data_set), Path(output), selection or BidsSelection()
    _require_places(data_set, output)
    if level == "group":
        if selection != BidsSelection():
            raise InputError(
                "A selection is for the level participant.",
                expected="no --participant-label, --session-id, --bids-filter-file",
                hint="the group is all that is in the output folder",
            )
        merge_group(data_set, output)
        return
    selection.require_participants(data_set)
    run = RunFolder.of(output, selection)
    _claim(output, dict(settings or {}))
    try:
        segment(run.path, selection)
    finally:
        if run.place():
            describe(data_set, output, run.path)


def _require_places(data_set: Path, output: Path) -> None:
    if not (data_set.is_dir() and is_bids(data_set)):
        raise InputError(
            "The folder is no BIDS data set.",
            file=data_set,
            expected="sub-*/[ses-*/]anat/*_T2w.nii.gz, T1w or FLAIR",
            found="a folder without them" if data_set.is_dir() else "no folder",
            hint="the order is BIDS_DIR OUT_DIR participant",
        )
    raw, out = data_set.resolve(), output.resolve()
    if raw == out or (raw in out.parents and out.relative_to(raw).parts[0] != "derivatives"):
        raise InputError(
            "The output would lie among the data set's own files.",
            file=output,
            expected=f"{data_set}/derivatives/NAME, or a folder elsewhere",
            hint="name another output",
        )
    if output.exists() and not (output / WORK).is_dir() and not (output / "logs").is_dir():
        refuse_existing(output)


def _claim(output: Path, settings: dict[str, Any]) -> None:
    """Make the folder, or join one that has the same settings; raises InputError for others."""
    path = output / WORK / _SETTINGS
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(output / WORK / "claim.lock", "Another call looks at this folder.", wait=CLAIM_TIMEOUT):
            if not path.exists():
                with atomic_file(path) as temporary:
                    temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
                return
    except OSError as error:
        raise InputError(
            "The output folder cannot be written.", file=output, found=os.strerror(error.errno or 0)
        ) from error
    before = read_json(path)
    if not isinstance(before, dict):
        raise InputError("The settings of the derivative are not understood.", file=path)
    if differing := [name for name in settings if before.get(name) != settings[name]]:
        raise InputError(
            f"The derivative was made with other settings ({', '.join(differing)}).",
            file=path,
            expected=f"{differing[0]} {json.dumps(before.get(differing[0]))}",
            found=json.dumps(settings[differing[0]]),
            hint="name another output",
        )
