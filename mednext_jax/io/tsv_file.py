"""Tab-separated tables from strangers: bounded size, an error that names the file."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from mednext_jax.errors import InputError

TABLE_LIMIT = 2**28  # bytes; a row for each of a million scans


def read_tsv(path: str | os.PathLike, *, errors: str = "replace") -> tuple[tuple[str, ...], list[dict[str, str]]]:
    """The columns of a UTF-8 table, with or without a byte order mark, and its rows; a cell that is absent is "".

    `errors`: what becomes of bytes that are not UTF-8, as for `open`. Raises InputError if it is too large or no table.
    """
    path = Path(path)
    if (size := path.stat().st_size) > TABLE_LIMIT:
        raise InputError("The table is too large.", file=path, expected=f"at most {TABLE_LIMIT} bytes", found=size)
    with path.open(newline="", encoding="utf-8-sig", errors=errors) as file:
        reader = csv.DictReader(file, delimiter="\t", restval="")
        try:
            rows = [{name: cell for name, cell in row.items() if name is not None} for row in reader]
        except csv.Error as error:
            raise InputError(
                "The file is not a table.", file=path, expected="columns separated by tabs", found=error
            ) from None
        return tuple(reader.fieldnames or ()), rows
