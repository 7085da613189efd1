"""Tables of a cohort: volumes.tsv, a row for each scan that is done, and failed.tsv, a row for each problem."""

from __future__ import annotations

import contextlib
import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mednext_jax.errors import InputError, shown
from mednext_jax.inference.failures import Failure
from mednext_jax.inference.run_record import EXISTS
from mednext_jax.io.table_cell import quoted, unquoted
from mednext_jax.io.table_file import read_table

FAILED = "failed.tsv"
COLUMNS = ("scan", "count", "volume_mm3", "seconds", "flags")
FAILED_COLUMNS = ("scan", "file", "stage", "message", "hint")
_FIRST_RELEASE = COLUMNS[:4]
_NONE = "n/a"


def volumes_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """The table of volumes as TSV."""
    return _text(COLUMNS, ({**row, "scan": quoted(row["scan"]), "flags": row["flags"] or _NONE} for row in rows))


def read_volumes(path: Path) -> dict[str, dict[str, Any]]:
    """Case -> row of a table of volumes, {} if there is none; a row that cannot be read is left out.

    Raises InputError for a table of other columns; release 0.1.0's had no flags.
    """
    if not path.is_file():
        return {}
    columns, lines = read_table(path, errors="surrogateescape")
    if columns not in (COLUMNS, _FIRST_RELEASE):
        raise InputError(f"{EXISTS}: predict cannot read the table.", file=path, expected=", ".join(COLUMNS))
    rows = {}
    for line in lines:
        with contextlib.suppress(ValueError):
            case, count = unquoted(line["scan"]), int(line["count"])
            volume, seconds = float(line["volume_mm3"]), float(line["seconds"])
            flags = line.get("flags", _NONE)
            if count >= 0 and 0 <= volume < math.inf and 0 <= seconds < math.inf and flags:
                found = {"scan": case, "count": count, "volume_mm3": volume, "seconds": seconds}
                rows[case] = found | {"flags": "" if flags == _NONE else flags}
    return rows


def failed_text(failures: Iterable[Failure]) -> str:
    """The table of what failed as TSV, its text as `shown`."""
    rows = []
    for failure in failures:
        for problem in failure.problems:
            details = [f"{name}: {getattr(problem, name)}" for name in ("expected", "found") if getattr(problem, name)]
            cells = (failure.case, problem.file, failure.stage, "; ".join([problem.what, *details]), problem.hint)
            shown_cells = [quoted(shown(cell)) if cell else _NONE for cell in cells]
            rows.append(dict(zip(FAILED_COLUMNS, shown_cells, strict=True)))
    return _text(FAILED_COLUMNS, rows)


def read_failed(path: Path) -> list[dict[str, str]]:
    """The rows of a failed.tsv as they are written there, [] if there is none; raises InputError for another table."""
    if not path.is_file():
        return []
    columns, rows = read_table(path, errors="surrogateescape")
    if columns != FAILED_COLUMNS:
        raise InputError("The table of failures is not understood.", file=path, expected=", ".join(FAILED_COLUMNS))
    return rows


def failed_rows_text(rows: Iterable[Mapping[str, str]]) -> str:
    """The table of rows that `read_failed` gave."""
    return _text(FAILED_COLUMNS, rows)


def _text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
