"""The tables of a cohort's parts as one: volumes.tsv, failed.tsv, scans.json, pvs.tsv and its dictionaries."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mednext_jax.errors import InputError
from mednext_jax.inference.cohort_tables import (
    FAILED,
    failed_rows_text,
    read_failed,
    read_volumes,
    volumes_text,
)
from mednext_jax.inference.flags import with_cohort_flags
from mednext_jax.inference.run_record import HIDDEN, lock_path, part_name, parts_in
from mednext_jax.io.atomic import atomic_file, replace_text
from mednext_jax.io.lock import locked
from mednext_jax.io.scan_list import LISTED, VOLUMES, read_scan_list, write_scan_list
from mednext_jax.quantify.tables import COHORT, cohort_text, dictionaries, read_rows

CLAIM_TIMEOUT = 60.0  # seconds that other parts of the cohort may take to claim theirs
BUSY = "Another predict writes into this folder."


@dataclasses.dataclass(frozen=True)
class Gathered:
    """What the tables of all parts hold. missing: parts that have not begun; running: parts at work."""

    rows: list[dict[str, Any]]
    failed: int
    missing: tuple[int, ...]
    running: tuple[int, ...]


def gather(output: str | Path) -> Gathered:
    """Merge the tables of the parts of a cohort in the folder `output`, those that are there.

    Scans are in the order of their names, as in the tables of an undivided run. Raises InputError if the folder holds
    no parts, or parts of two divisions.
    """
    folder = Path(output)
    parts = parts_in(folder) if folder.is_dir() else []
    counts = {n for _, n in parts}
    if len(counts) != 1:
        raise InputError(
            "The folder holds no parts of one cohort.",
            file=folder,
            expected="prediction_part-K-of-N.json, which mednext-jax predict --part K/N writes",
            found=", ".join(f"parts of {n}" for n in sorted(counts)) or "none",
        )
    with locked(claim_path(folder), BUSY, wait=CLAIM_TIMEOUT):
        return _merge(folder, parts)


def gather_parts(folder: Path) -> None:
    """`gather`, if all parts have begun and none is at work: the last one to end merges the tables."""
    with locked(claim_path(folder), BUSY, wait=CLAIM_TIMEOUT):
        parts = parts_in(folder)
        if parts and len(parts) == parts[0][1] and not any(is_at_work(folder, part) for part in parts):
            _merge(folder, parts)


def claim_path(folder: Path) -> Path:
    """The lock file that is held while a part begins, or while tables are merged."""
    return folder / f"{HIDDEN}-claim.lock"


def is_at_work(folder: Path, part: tuple[int, int]) -> bool:
    """Whether a process works on a part."""
    path = lock_path(folder, part)
    if not path.exists():
        return False
    try:
        with locked(path, BUSY):
            return False
    except InputError:
        return True


def _merge(folder: Path, parts: list[tuple[int, int]]) -> Gathered:
    named = {name: [folder / part_name(name, part) for part in parts] for name in (VOLUMES, FAILED, LISTED, COHORT)}
    rows = [row for path in named[VOLUMES] for row in read_volumes(path).values()]
    rows = with_cohort_flags(sorted(rows, key=lambda row: row["scan"]))
    failed = sorted((row for path in named[FAILED] for row in read_failed(path)), key=lambda row: row["scan"])
    listed = {scan.case: scan for path in named[LISTED] if path.is_file() for scan in read_scan_list(path)}
    measured = [path for path in named[COHORT] if path.is_file()]
    replace_text(folder / VOLUMES, volumes_text(rows))
    write_failed(folder / FAILED, failed_rows_text(failed) if failed else None)
    with atomic_file(folder / LISTED) as temporary:
        write_scan_list(temporary, (listed[case] for case in sorted(listed)))
    if measured:
        tables: dict[str, list[dict[str, str]]] = {}
        for row in (row for path in measured for row in read_rows(path)):
            tables.setdefault(row.pop("scan"), []).append(row)
        for name, text in ({COHORT: cohort_text(sorted(tables.items()))} | dictionaries()).items():
            replace_text(folder / name, text)
    begun = {k for k, _ in parts}
    missing = tuple(k for k in range(1, parts[0][1] + 1) if k not in begun)
    return Gathered(rows, len(failed), missing, tuple(k for k, n in parts if is_at_work(folder, (k, n))))


def write_failed(path: Path, text: str | None) -> None:
    """Write or, without a `text`, remove a failed.tsv."""
    if text is not None:
        replace_text(path, text)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def summary(gathered: Gathered) -> Iterable[str]:
    """What was merged, in lines."""
    yield f"{len(gathered.rows)} scans, {gathered.failed} failures"
    said: list[tuple[str, tuple[int, ...]]] = [("not begun", gathered.missing), ("at work still", gathered.running)]
    yield from (f"parts {what}: {', '.join(map(str, parts))}" for what, parts in said if parts)
