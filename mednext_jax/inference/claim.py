"""The output folder of a run: claimed by one process for its part, continued, refused, or begun anew."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mednext_jax.errors import InputError
from mednext_jax.inference.cohort_tables import FAILED, read_volumes
from mednext_jax.inference.gather import BUSY, CLAIM_TIMEOUT, claim_path, gather_parts
from mednext_jax.inference.outputs import LOG, Outputs
from mednext_jax.inference.run_record import (
    ELSEWHERE,
    EXISTS,
    HIDDEN,
    lock_path,
    of_a_scan,
    part_name,
    parts_in,
    record_path,
    refuse_output,
    require_same,
)
from mednext_jax.inference.scan_record import ScanRecord
from mednext_jax.inference.scans import Scan
from mednext_jax.io.atomic import refuse_existing
from mednext_jax.io.lock import locked
from mednext_jax.io.scan_list import LISTED, RECORD, SCAN_RECORDS, VOLUMES, records_in, scan_record_path
from mednext_jax.quantify.scan_tables import ScanTables
from mednext_jax.quantify.tables import COHORT

_RECORD_READERS = 8


@contextlib.contextmanager
def open_outputs(
    folder: Path,
    scans: Sequence[Scan],
    settings: dict[str, Any],
    tables: ScanTables | None = None,
    *,
    force: bool = False,
) -> Iterator[Outputs]:
    """Claim `folder` for the part of a cohort that `settings` (`describe_run`) say, and write prediction.json.

    Parts of one cohort may share a folder, each with its own tables; the last one to end merges them. Where the same
    part was begun with the same settings, its scans that have a record, an unchanged input and whole outputs stay as
    they are. Anything else that is there already is refused, or with `force` made again.
    Raises InputError, also if another process works on the part or the folder cannot be written.
    """
    part = tuple(settings["part"])
    hidden = folder / part_name(HIDDEN, part)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with contextlib.ExitStack() as last:
        last.callback(_remove_empty, made)
        with contextlib.ExitStack() as stack:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with locked(claim_path(folder), BUSY, wait=CLAIM_TIMEOUT):
                    stack.enter_context(locked(lock_path(folder, part), BUSY))
                    refuse_output(folder, part, force=force)
                    if force:
                        _give_up(folder, scans, settings)
                    before = {} if force else rows_before(folder, scans, settings)
                    shutil.rmtree(hidden, ignore_errors=True)  # of a process that was killed
                    hidden.mkdir()
                    outputs = Outputs(folder, hidden, scans, settings, before, tables)
                    if part[1] > 1:
                        last.callback(gather_parts, folder)  # when this part's lock is free
                    stack.callback(outputs.close)
                    outputs.describe()
                    outputs.list_scans()
            except OSError as error:
                raise InputError(
                    "The output folder cannot be written.",
                    file=folder,
                    found=error.strerror or str(error),
                    hint="name a folder on a disk with space, where you may write",
                ) from error
            yield outputs


def done_before(folder: Path, scans: Sequence[Scan], settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Case -> row of each of the scans that is done: its record fits and its outputs are whole."""
    made_with = of_a_scan(settings)

    def row_of(scan: Scan) -> dict[str, Any] | None:
        record = _read(folder, scan.case)
        fits = record is not None and record.fits(scan.inputs, made_with) and record.is_whole(folder)
        return dict(record.row) if record is not None and fits else None

    with ThreadPoolExecutor(_RECORD_READERS) as pool:
        rows = list(pool.map(row_of, scans))
    return {scan.case: row for scan, row in zip(scans, rows, strict=True) if row is not None}


def changed_since(folder: Path, scans: Sequence[Scan]) -> list[Scan]:
    """The scans that were done with other files than those of today."""
    records = [(scan, _read(folder, scan.case)) for scan in scans]
    return [s for s, record in records if record is not None and not record.fits(s.inputs, record.made_with)]


def rows_before(folder: Path, scans: Sequence[Scan], settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Case -> row of what this run did before it was stopped; raises InputError for outputs of any other run."""
    part = tuple(settings["part"])
    table, record = folder / part_name(VOLUMES, part), record_path(folder, part)
    for path in records_in(folder):
        require_same(settings, path, same_part=path == record)
    if not record.is_file():
        for path in (table, *(folder / p for scan in scans for p in (scan.mask, scan.probability))):
            with contextlib.suppress(OSError):  # a name that is too long is its scan's failure
                refuse_existing(path)
        return {}
    others = [folder / part_name(VOLUMES, other) for other in parts_in(folder) if other != part]
    elsewhere = {case for path in others for case in read_volumes(path)}
    if moved := sorted(elsewhere & {scan.case for scan in scans}):
        raise InputError(
            f"{EXISTS}: the cohort has changed since.",
            file=folder,
            expected="the same scans in each part as before",
            found=f"{len(moved)} scans in the tables of two parts: {', '.join(map(repr, moved[:4]))}",
            hint=ELSEWHERE,
        )
    known = {scan.case for scan in scans}
    gone = {case: row for case, row in read_volumes(table).items() if case not in known}  # scans that are there no more
    return gone | done_before(folder, scans, settings)


def _give_up(folder: Path, scans: Sequence[Scan], settings: dict[str, Any]) -> None:
    """Take away what runs of other settings say of themselves, and the outputs of scans that are there no more.

    The outputs of a scan that is to be done stay until the new ones take their place. What another program has changed
    or added stays. Raises InputError if one of those runs is at work.
    """
    part = tuple(settings["part"])
    for other in [(1, 1), *parts_in(folder)]:
        if other == part or not record_path(folder, other).is_file():
            continue
        try:
            require_same(settings, record_path(folder, other), same_part=False)
            continue  # a part of this run
        except InputError:
            with locked(lock_path(folder, other), BUSY):
                for name in (RECORD, VOLUMES, LISTED, FAILED, COHORT, LOG):
                    (folder / part_name(name, other)).unlink(missing_ok=True)
    if part == (1, 1):
        known = {scan.case for scan in scans}
        for path in sorted((folder / SCAN_RECORDS).glob("*.json")):
            record = ScanRecord.read(path)
            if record is not None and record.case == path.stem and record.case not in known:
                path.unlink()
                for name, state in record.outputs.items():
                    if _is_inside(name) and state.is_of(folder / name):
                        (folder / name).unlink()


def _read(folder: Path, case: str) -> ScanRecord | None:
    return ScanRecord.read(folder / scan_record_path(case))


def _is_inside(name: str) -> bool:
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _remove_empty(folders: Sequence[Path]) -> None:
    for path in folders:
        with contextlib.suppress(OSError):
            os.rmdir(path)
