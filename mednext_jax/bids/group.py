"""The group level: the tables of all participants as one, and the page of all scans."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

from mednext_jax.bids.run_folder import LOGS
from mednext_jax.errors import InputError
from mednext_jax.io.atomic import atomic_file, replace_text
from mednext_jax.io.scan_list import LISTED, RECORD, VOLUMES, ListedScan, read_scan_list, write_scan_list
from mednext_jax.io.table_cell import unquoted
from mednext_jax.io.table_file import read_table
from mednext_jax.quantify.tables import COHORT, TableFiles, cohort_text, dictionaries, read_rows
from mednext_jax.report.report import report


def merge_group(data_set: Path, output: Path) -> None:
    """Write volumes.tsv, scans.json, prediction.json, pvs.tsv and report.html of all participants in `output`.

    Raises InputError if no participant is there, or for tables that are not understood.
    """
    runs = sorted(path.parent for path in (output / LOGS).glob(f"*/{RECORD}"))
    rows: dict[str, dict[str, str]] = {}
    listed: dict[str, ListedScan] = {}
    columns: dict[str, None] = {}
    for run in runs:
        for scan in read_scan_list(run / LISTED) if (run / LISTED).is_file() else ():
            if scan.case not in listed or listed[scan.case].problem:
                listed[scan.case] = scan
        if (run / VOLUMES).is_file():
            names, lines = read_table(run / VOLUMES, errors="surrogateescape")
            columns |= dict.fromkeys(names)
            rows |= {unquoted(line["scan"]): line for line in lines if "scan" in line}
    there = sorted(case for case in rows if case in listed and (output / listed[case].mask).is_file())
    if not there:
        raise InputError(
            "No participant is in the derivative.",
            file=output,
            expected="what `mednext-jax bids BIDS_DIR OUT_DIR participant` writes",
            found=f"{len(runs)} runs without a scan that is done" if runs else "nothing of it",
            hint="run the level participant first",
        )
    with atomic_file(output / VOLUMES) as path:
        with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.DictWriter(file, list(columns), restval="n/a", delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows[case] for case in there)
    with atomic_file(output / LISTED) as path:
        write_scan_list(path, (listed[case] for case in sorted(listed)))
    with atomic_file(output / RECORD) as path:
        shutil.copyfile(runs[0] / RECORD, path)
    tables = {case: output / TableFiles.bids(Path(listed[case].mask).parent, case).regions for case in there}
    if measured := [(case, read_rows(table)) for case, table in tables.items() if table.is_file()]:
        for name, text in ({COHORT: cohort_text(measured)} | dictionaries()).items():
            replace_text(output / name, text)
    participants = data_set if (data_set / "participants.tsv").is_file() else None
    report(output, participants=participants, pages=False)
