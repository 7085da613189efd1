"""The command: a page for each scan of a prediction, and one for all of them."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import os
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from mednext_jax.errors import InputError, Problem, in_groups, shown
from mednext_jax.io.absent import is_named
from mednext_jax.io.atomic import atomic_file, refuse_existing
from mednext_jax.io.raw_dataset import read_participants
from mednext_jax.report.group_page import MEASURES, Cohort, write_group_page
from mednext_jax.report.measured import (
    BOTH,
    TableRow,
    is_whole,
    iterate_table,
    read_dictionaries,
    read_measured,
    table_files,
)
from mednext_jax.report.page import GENERATOR, made_from
from mednext_jax.report.predicted import PredictedScan, PredictionFolder, participants_folder
from mednext_jax.report.scan_files import findings, read_scan_files, uncertainty_maps
from mednext_jax.report.scan_page import write_scan_page

GROUP_PAGE = "report.html"
COHORT_TABLE = "pvs.tsv"
THREADS = 4  # pages that are made at a time: most of the work is NumPy's and zlib's, and each holds its scan


def report(
    out: str | Path,
    scans: str | Path | None = None,
    participants: str | Path | None = None,
    tables: str | Path | None = None,
    *,
    pages: bool = True,
    cases: Collection[str] | None = None,
) -> Path:
    """Write CASE_report.html beside the mask of each scan of the prediction `out`, and report.html; returns its path.

    scans: the folder of the segmented scans, if they are not where the prediction found them. participants: the folder
    with a participants.tsv (default: beside the segmented scans). tables: the output folder of `quantify`,
    if not `out`. pages: False writes report.html alone. cases: only the pages of these.
    A page that was made from the same files is kept, so that a run that was stopped goes on; any other file in its
    place is refused before anything is written: InputError. report.html is a list of what is there and is made anew.
    A scan whose files are damaged has no page and is named in report.html; the others are done, and all such problems
    are raised together at the end: InputError.
    """
    folder = PredictionFolder.open(out, scans, tables)
    todo = [scan for scan in folder.scans if pages and (cases is None or scan.case in cases)]
    group = folder.path / GROUP_PAGE
    _refuse_other_files(group, todo)
    place = Path(participants) if participants is not None else participants_folder(folder)
    if participants is not None and not (Path(participants) / "participants.tsv").is_file():
        raise InputError("There is no participants.tsv.", file=participants, hint="check --participants")
    known, warned = read_participants(place, [scan.case for scan in folder.scans]) if place else ({}, [])
    start = time.perf_counter()
    bad = _write_pages(todo, folder)
    failed = dict(folder.failed) | {case: str(error) for case, error in bad.items()}
    problems = [
        dataclasses.replace(problem, file=problem.file or str(scan.mask))
        for scan in todo
        if scan.case in bad
        for problem in bad[scan.case].problems
    ]
    cohort = Cohort(_cohort_rows(folder), _existing_pages(folder), failed, known, read_dictionaries(folder.tables))
    with atomic_file(group) as temporary:
        write_group_page(temporary, cohort, made_from="")
    if warned:
        print(in_groups(warned), flush=True)
    print(f"{shown(group)}: {len(folder.scans)} scans, {time.perf_counter() - start:.1f} s", flush=True)
    if problems:
        raise InputError.of(problems)
    return group


def page_of(scan: PredictedScan) -> Path:
    """Where the page of a scan is written."""
    return scan.mask.with_name(f"{scan.prefix}_report.html")


def _write_pages(todo: Sequence[PredictedScan], folder: PredictionFolder) -> dict[str, InputError]:
    """Write the pages, several at a time, and print each; returns the failures, by case."""
    bad: dict[str, InputError] = {}
    with concurrent.futures.ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        work = {pool.submit(_write_one, scan, folder): scan.case for scan in todo}
        try:
            for done, future in enumerate(concurrent.futures.as_completed(work), 1):
                case = work[future]
                try:
                    said = future.result()
                except InputError as error:
                    bad[case], said = error, "failed"
                print(f"report [{done}/{len(todo)}] {shown(case)}: {said}", flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # those at work are finished, no other is begun
            raise
    return bad


def _write_one(scan: PredictedScan, folder: PredictionFolder) -> str:
    """Write one scan's page unless it is there; returns what to say."""
    path = page_of(scan)
    source = _fingerprint(scan)
    if path.exists() and made_from(path) == source:
        return "its page is there"
    start = time.perf_counter()
    files = read_scan_files(scan)
    probability = None if files.probability is None else files.probability.get_fdata(dtype="float32")
    measured = read_measured(scan, folder.tables, files.mask, probability)
    files.problems.extend(findings(files, measured))
    up = os.path.relpath(folder.path / GROUP_PAGE, path.parent)
    with atomic_file(path) as temporary:
        write_scan_page(temporary, scan, files, measured, up, source)
        size = temporary.stat().st_size
    return f"{size / 1e6:.1f} MB, {len(files.problems)} warnings, {time.perf_counter() - start:.1f} s"


def _refuse_other_files(group: Path, todo: Collection[PredictedScan]) -> None:
    """Raise InputError for what is in a page's place and is no page that this run would write."""
    problems: list[Problem] = []
    for path, source in [
        (group, None),
        *((page_of(scan), _fingerprint(scan)) for scan in todo if is_named(page_of(scan))),
    ]:
        there = made_from(path)
        if there is not None and source in (None, there):
            continue
        try:
            refuse_existing(path)
        except InputError as error:
            problem = error.problems[0]
            found = "a file of another origin" if there is None else "a page that was made from other files"
            hint = "move it elsewhere, or remove it"
            problems.append(
                Problem(problem.what, problem.file, f"a page of {GENERATOR}, from the same files", found, hint)
            )
    if problems:
        raise InputError.of(problems)


def _fingerprint(scan: PredictedScan) -> str:
    """SHA-256 of what a page is made from: mask, probability, uncertainty, tables, the scan's path."""
    digest = hashlib.sha256(os.fsencode(str(scan.image)))
    tables = table_files(scan)
    measured = () if tables is None else (tables.labels, tables.clusters, tables.regions)
    maps = uncertainty_maps(scan).values()
    for path in filter(Path.is_file, (scan.mask, scan.probability, *measured, *maps)):
        digest.update(os.fsencode(path.name))
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _existing_pages(folder: PredictionFolder) -> dict[str, str]:
    paths = {scan.case: page_of(scan) for scan in folder.scans}
    return {case: os.path.relpath(path, folder.path) for case, path in paths.items() if made_from(path) is not None}


def _cohort_rows(folder: PredictionFolder) -> list[TableRow]:
    """The rows of pvs.tsv of the scans of the prediction; of volumes.tsv for scans that it lacks.

    Of a region both sides together, and what is drawn: a cohort of thousands has hundreds of thousands of rows.
    """
    path = folder.tables / COHORT_TABLE
    cases = {scan.case for scan in folder.scans}
    rows = []
    for row in iterate_table(path) if path.is_file() else ():
        if missing := [name for name in ("scan", "region", *MEASURES) if name not in row]:
            hint = "make it again: mednext-jax quantify, or predict into a new folder"
            what = "The table of all scans lacks columns."
            raise InputError(what, file=path, expected=", ".join(missing), found=", ".join(row)[:200], hint=hint)
        if row.get("scan") not in cases:
            continue
        if is_whole(row):
            rows.append(row)
        elif row.get("hemisphere", "") in BOTH:
            rows.append({name: row.get(name, "") for name in ("scan", "region", "hemisphere", *MEASURES)})
    there = {row["scan"] for row in rows}
    return rows + [dict(scan.volumes) for scan in folder.scans if scan.case not in there]
