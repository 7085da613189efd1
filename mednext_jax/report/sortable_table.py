"""A table of the page: sorted by a click on a column's name, its columns explained below it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mednext_jax.report.measured import TableRow, number
from mednext_jax.report.page import text

# Rows beyond these stay in the file: a browser shows them slowly, and nobody reads them.
MAX_ROWS = 3000
_NUMBER, _WORDS = ' class="number"', ' class="words"'
SENTENCE = 24  # letters from which a cell of text is given room for several words a line
SHORT_UNITS = {"mm3": "mm³", "mm^3": "mm³", "1/mL": "per mL", "mL": "mL", "1": ""}


def sortable_table(
    rows: Sequence[TableRow],
    caption: str,
    dictionary: Mapping[str, Mapping[str, Any]],
    first: Callable[[TableRow], str] | None = None,
    attributes: Callable[[TableRow], str] | None = None,
    limit: int | None = MAX_ROWS,
) -> str:
    """Rows (column -> text) as HTML. first: the content of a row's first cell, as HTML; attributes: of a row.
    limit: rows that are shown.

    Numbers are shown short and sorted in full.
    """
    if not rows:
        return f'<p class="empty">{text(caption)}: none.</p>'
    columns = list(dict.fromkeys(name for row in rows for name in row))
    columns = [name for name in columns if any(row.get(name, "") != "" for row in rows)]
    numeric = {name for name in columns[1:] if any(number(row, name) is not None for row in rows)}
    head = "".join(
        f'<th scope="col" aria-sort="none"{_NUMBER if name in numeric else ""}>'
        f'<button type="button">{text(_title(name, dictionary))}</button></th>'
        for name in columns
    )
    body = []
    for row in rows[:limit]:
        cells = [_cell(row, name) for name in columns[1:]]
        value = first(row) if first else text(row.get(columns[0], ""))
        start = f'<th scope="row"{_value(row, columns[0])}>{value}</th>'
        body.append(f"<tr{attributes(row) if attributes else ''}>{start}{''.join(cells)}</tr>")
    more = (
        f"<p>{len(rows) - limit} rows more are in the table's file; the first {limit} are here.</p>"
        if limit is not None and len(rows) > limit
        else ""
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}">'
        f'<table class="sortable"><caption>{text(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>{more}{_explained(columns, dictionary)}"
    )


def short(row: Mapping[str, str], column: str) -> str:
    """A cell as it is shown: whole numbers whole, mm to a tenth, others to three digits."""
    value = number(row, column)
    if value is None:
        return row.get(column, "")
    if value == int(value) and "." not in row[column] and "e" not in row[column].lower():
        return str(int(value))
    if column.endswith("_mm") and abs(value) < 100:
        return f"{value:.1f}"
    return compact(value)


def compact(value: float) -> str:
    """A number to three digits, without an exponent between a millionth and ten million."""
    if value and not 1e-6 <= abs(value) < 1e7:
        return f"{value:.2e}"
    if abs(value) < 0.1:
        return np.format_float_positional(value, 3, fractional=False, trim="-")
    return f"{value:.{0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3}f}"


def unit(column: str, dictionary: Mapping[str, Mapping[str, Any]]) -> str:
    """The unit of a column, from its entry or from the end of its name."""
    said = str(dictionary.get(column, {}).get("Units", ""))
    if not said:
        said = next((end for end in ("mm3", "mm") if column.endswith(f"_{end}")), "")
    return SHORT_UNITS.get(said, said)


def _title(column: str, dictionary: Mapping[str, Mapping[str, Any]]) -> str:
    of = unit(column, dictionary)
    name = column.removesuffix("_mm3").removesuffix("_mm").removesuffix("_per_ml").replace("_", " ")
    return f"{name} ({of})" if of else name


def _cell(row: TableRow, column: str) -> str:
    shown = short(row, column)
    kind = _NUMBER if number(row, column) is not None else _WORDS if len(shown) > SENTENCE else ""
    return f"<td{kind}{_value(row, column)}>{text(shown)}</td>"


def _value(row: TableRow, column: str) -> str:
    value = number(row, column)
    return "" if value is None else f' data-value="{value:.12g}"'


def _explained(columns: Sequence[str], dictionary: Mapping[str, Mapping[str, Any]]) -> str:
    entries = "".join(
        f"<div><dt>{text(_title(name, dictionary))}</dt><dd>{text(dictionary[name]['Description'])}</dd></div>"
        for name in columns
        if dictionary.get(name, {}).get("Description")
    )
    summary = "What the columns mean"
    return f"<details><summary>{summary}</summary><dl class='terms'>{entries}</dl></details>" if entries else ""
