"""Names in the cells of a table that a spreadsheet may open."""

from __future__ import annotations

import re

# What a spreadsheet takes for a formula; a tab or line end before it does not keep it from that.
FORMULA = re.compile(r"'*[\t\r\n ]*[=+\-@]")


def quoted(text: str) -> str:
    """`text` with an apostrophe before it if a spreadsheet would take it for a formula (= + - @), else as it is."""
    return f"'{text}" if FORMULA.match(text) else text


def unquoted(cell: str) -> str:
    """The text that `quoted` gave `cell` for."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell
