"""What a run says of itself in prediction.json, and which runs may go on in a folder.

Parts of one cohort share the folder; the files of a part have its number in their names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from mednext_jax.errors import InputError
from mednext_jax.inference.predictor import Predictor
from mednext_jax.io.atomic import refuse_existing
from mednext_jax.io.json_file import read_json
from mednext_jax.io.scan_list import RECORD, records_in
from mednext_jax.quantify.scan_tables import ScanTables
from mednext_jax.version import __version__
from mednext_jax.weights.directory import DESCRIPTION, notice_of

HIDDEN = ".predict"  # how the names of lock files and of the hidden folder begin
EXISTS = "The output exists already and is not overwritten"
ELSEWHERE = "name another output, or have all of it made again: --force"
# What may differ between two starts of one run, or is compared by itself.
_NOT_COMPARED = ("device", "models", "part")
# What a scan's outputs do not depend on: its own record holds its input.
_NOT_OF_A_SCAN = (*_NOT_COMPARED, "inputs", "brain_masks")
_PART = re.compile(r"prediction_part-(\d+)-of-(\d+)\.json")


def describe_run(
    predictor: Predictor,
    inputs: Path,
    part: tuple[int, int],
    brain_masks: str | Path | None = None,
    tables: ScanTables | None = None,
    brain_extraction: str | None = None,
) -> dict[str, Any]:
    """How the outputs come about: models with their checksums, settings, software, device."""
    models = []
    for path in predictor.paths:
        stored = {} if path is None else read_json(path / DESCRIPTION)
        about = {"path": str(path), "sha256": stored.get("weights", {}).get("sha256")}
        if (notice := notice_of(stored.get("provenance", {}))) is not None:
            about["notice"] = notice
        models.append(about | {"spacing": predictor.recipe.spacing, "orientation": predictor.recipe.orientation})
    return {
        "inputs": inputs.resolve().as_posix(),
        "models": models,
        "threshold": predictor.threshold,
        # Of a model with a table; each scan's own is in its record.
        **({"thresholds": [dict(row) for row in predictor.thresholds]} if predictor.thresholds else {}),
        **({"temperature": predictor.recipe.temperature} if predictor.recipe.temperature != 1 else {}),
        "mirror_axes": list(predictor.window.mirror_axes),
        "step": predictor.window.step,
        "skip_background": predictor.skip_background,
        "brain_masks": None if brain_masks is None else Path(brain_masks).resolve().as_posix(),
        "brain_extraction": brain_extraction,
        "background": predictor.background,
        "part": list(part),
        "tables": None if tables is None else tables.about,
        "software": {"mednext_jax": __version__, "jax": jax.__version__},
        "device": jax.devices()[0].device_kind,
    }


def of_a_scan(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What of a run's settings a scan's outputs depend on, beside its input: models' sha256 and settings."""
    kept = {name: value for name, value in settings.items() if name not in _NOT_OF_A_SCAN}
    return json.loads(json.dumps({"models": [model["sha256"] for model in settings["models"]], **kept}))


def part_name(name: str, part: Sequence[int]) -> str:
    """A file's name for a part: volumes.tsv, or volumes_part-2-of-8.tsv."""
    start, dot, ending = name.partition(".")
    return name if tuple(part) == (1, 1) else f"{start}_part-{part[0]}-of-{part[1]}{dot}{ending}"


def record_path(folder: Path, part: Sequence[int]) -> Path:
    """The description of the run of a part."""
    return folder / part_name(RECORD, part)


def lock_path(folder: Path, part: Sequence[int]) -> Path:
    """The lock file of the process that works on a part."""
    return folder / f"{part_name(HIDDEN, part)}.lock"


def parts_in(folder: Path) -> list[tuple[int, int]]:
    """The parts of a cohort that have begun in a folder."""
    found = [_PART.fullmatch(path.name) for path in folder.glob("prediction_part-*.json")]
    return sorted((int(match[1]), int(match[2])) for match in found if match)


def refuse_output(folder: Path, part: Sequence[int], *, force: bool = False) -> None:
    """Raise InputError for a folder that no run of this part can write into, before anything is loaded.

    force: one that predict has written, whatever of, will do.
    """
    begun = bool(records_in(folder)) if force else record_path(folder, part).is_file()
    if (part[1] == 1 or force) and not begun:
        if folder.is_dir() and all(path.name.startswith(HIDDEN) for path in folder.iterdir()):
            return
        refuse_existing(folder)


def require_same(settings: Mapping[str, Any], record: Path, same_part: bool) -> None:
    """Raise InputError if the run that `record` describes had other settings than these."""
    before = read_json(record)

    def compared(value: Any) -> dict[str, Any]:
        # A run of release 0.1.0 says nothing of tables: its scans are done again, with theirs.
        known = [name for name in settings if name not in _NOT_COMPARED and (name != "tables" or name in before)]
        found = {name: value.get(name) for name in known}
        part = list(value["part"]) if same_part else value["part"][1]
        return found | {"models": [model["sha256"] for model in value["models"]], "part": part}

    try:
        ours, theirs = compared(settings), compared(before)
    except (AttributeError, IndexError, KeyError, TypeError):
        raise InputError(f"{EXISTS}: predict cannot read what it is.", file=record, hint=ELSEWHERE) from None
    if differing := [name for name in ours if ours[name] != theirs.get(name)]:
        name = differing[0]
        raise InputError(
            f"{EXISTS}: it was made with other settings ({', '.join(differing)}).",
            file=record,
            expected=f"{name} {json.dumps(ours[name])}",
            found=json.dumps(theirs[name])[:300],
            hint=ELSEWHERE,
        )
