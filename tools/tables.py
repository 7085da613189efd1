"""Tables of figures that tools write as JSON, and the model card shows: {"tables": [{title, about, columns, rows}]}."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from mednext_jax.errors import InputError
from mednext_jax.io.json_file import read_json

CALIBRATION = "calibration.json"  # of `tools.calibrate_model`, in the model directory
RELIABILITY = "Reliability, on simulated scans"  # title of its table of bins, which the card shows as a curve, too


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of texts. about: one paragraph on what the figures are, and of which scans."""

    title: str
    about: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def markdown(self, picture: str = "") -> Iterator[str]:
        """The lines of a section; picture: a line of Markdown before the table."""
        yield from (f"## {self.title}", "", self.about, "", *([picture, ""] if picture else []))
        yield f"| {' | '.join(self.columns)} |"
        yield f"| {' | '.join('---' for _ in self.columns)} |"
        yield from (f"| {' | '.join(row)} |" for row in self.rows)
        yield ""


def as_json(tables: Sequence[Table]) -> str:
    """The file's text."""
    return json.dumps({"tables": [dataclasses.asdict(table) for table in tables]}, indent=1) + "\n"


def read_tables(path: Path) -> list[Table]:
    """The tables of a file; raises InputError for another one."""
    try:
        return [
            Table(
                str(t["title"]), str(t["about"]), tuple(map(str, t["columns"])), [tuple(map(str, r)) for r in t["rows"]]
            )
            for t in read_json(path)["tables"]
        ]
    except (KeyError, TypeError):
        raise InputError(
            "These are no tables.", file=path, expected='{"tables": [{title, about, columns, rows}]}'
        ) from None
