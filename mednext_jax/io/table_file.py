"""A table from a stranger: rows of text by column, or an error that names the file."""

from __future__ import annotations

import codecs
import csv
import io
import os
from pathlib import Path

from mednext_jax.errors import InputError
from mednext_jax.io.absent import refuse_absent

LIMIT = 2**28  # bytes; a row for each of a million scans


def read_table(path: str | os.PathLike, *, errors: str = "replace") -> tuple[tuple[str, ...], list[dict[str, str]]]:
    """The columns of a table with a header, and its rows: column -> cell, "" where a row is short.

    Separated by tabs; by commas or semicolons where the header has no tab, as spreadsheets save it. UTF-8, UTF-16 with
    its mark; `errors`: what becomes of other bytes, as for `bytes.decode`. Empty lines are left out. Raises InputError
    if the file is missing or larger than `LIMIT`, or no table.
    """
    path = Path(path)
    refuse_absent(path, "table", "a table with a header")
    if (size := path.stat().st_size) > LIMIT:
        raise InputError("The table is too large.", file=path, expected=f"at most {LIMIT} bytes", found=size)
    data = path.read_bytes()
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode("utf-16" if wide else "utf-8-sig", errors="replace" if wide else errors)
    header = text.lstrip().partition("\n")[0]
    delimiter = "\t" if "\t" in header else max(",;", key=header.count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise InputError("The table cannot be read.", file=path, expected="cells with tabs", found=error) from None
    header_row, *filled = [row for row in rows if any(map(str.strip, row))] or [[]]
    columns = tuple(name.strip() for name in header_row)
    return columns, [{name: row[i] if i < len(row) else "" for i, name in enumerate(columns) if name} for row in filled]
