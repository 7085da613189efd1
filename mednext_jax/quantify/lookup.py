"""Lookup tables: what the values of a region map mean, as JSON, TSV or FreeSurfer's colour table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mednext_jax.errors import InputError
from mednext_jax.io.absent import refuse_absent
from mednext_jax.io.json_file import read_json
from mednext_jax.io.table_file import read_table
from mednext_jax.measure.freesurfer import FREESURFER
from mednext_jax.measure.parcellation import Structure, Tissue
from mednext_jax.quantify.one_scan import ELSEWHERE, WHOLE

PRESET = "freesurfer"
_EXPECTED = (
    'JSON {"white matter": 1, ...} or {"1": "white matter", ...}, a TSV with columns index and name, '
    "a FreeSurfer colour table (number, name, colours), or the word freesurfer"
)
_LINE = re.compile(r"\s*(\d+)\s+(\S+)(\s+\d+){3,4}\s*")
_SIDE = re.compile(
    r"^(?:(?:ctx|wm|cortex)[-_ ])?(left|right|lh|rh|l|r)[-_ .]+(.+)$|^(.+?)[-_ .]+(left|right|lh|rh|l|r)$", re.I
)
_LIMIT = 2**22  # bytes of a table


def read_lookup(source: str | Path) -> dict[int, Structure]:
    """Value -> structure of a lookup table, or of FreeSurfer for "freesurfer".

    Sides are read from names such as Left-Putamen, ctx-lh-insula, putamen_R; the rest of the name is the region. Names
    that hold "ventricle", "csf" or "cortex" say also what is fluid and what is cortex.
    Raises InputError for a table that is missing or not understood.
    """
    if str(source) == PRESET:
        return FREESURFER
    path = Path(source)
    refuse_absent(path, "lookup table", _EXPECTED)
    named = _from_json(path) if path.suffix.lower() == ".json" else _from_text(path)
    found = {value: structure_of(name) for value, name in named.items() if value > 0 and name.strip()}
    if not found:
        raise _not_understood(path, "no value above 0 with a name")
    if taken := sorted({s.region for s in found.values()} & {WHOLE, ELSEWHERE}):
        raise _not_understood(path, f"a region called {taken[0]!r}, as the tables call a row of their own")
    return found


def structure_of(name: str) -> Structure:
    """The structure that a name of a lookup table means; each name is a region of its own, its sides together."""
    region, hemisphere = name.strip(), ""
    if match := _SIDE.match(region):
        side = match[1] or match[4]
        region, hemisphere = match[2] or match[3], "left" if side[0] in "lL" else "right"
    lowered = region.lower()
    tissues: dict[str, Tissue] = {"ventricle": "ventricle", "csf": "csf", "cortex": "cortex", "ctx": "cortex"}
    tissue: Tissue = next((tissue for word, tissue in tissues.items() if word in f"{lowered} {name.lower()}"), "")
    return Structure(lowered, "" if region.lower() in ("unknown", "background") else region, hemisphere, tissue=tissue)


def _from_json(path: Path) -> dict[int, str]:
    content = read_json(path, limit=_LIMIT)
    if not isinstance(content, dict):
        raise _not_understood(path, "no object")
    named: dict[int, str] = {}
    for key, value in content.items():
        pairs: list[tuple[Any, Any]]
        if re.fullmatch(r"\d+", key) and isinstance(value, str):
            pairs = [(int(key), value)]
        else:
            pairs = [(one, key) for one in (value if isinstance(value, list) else [value])]
        for number, name in pairs:
            if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                raise _not_understood(path, f"{key!r}: {value!r}"[:200])
            if named.setdefault(number, name) != name:
                raise _not_understood(path, f"two names of the value {number}: {named[number]!r} and {name!r}")
    return named


def _from_text(path: Path) -> dict[int, str]:
    with path.open("rb") as file:
        data = file.read(_LIMIT + 1)
    if len(data) > _LIMIT:
        raise _not_understood(path, f"more than {_LIMIT} bytes")
    lines = [line for line in data.decode("utf-8-sig", "replace").splitlines() if line.strip()]
    if lines and "\t" in lines[0] and {"index", "name"} <= set(lines[0].lower().split("\t")):
        columns, rows = read_table(path)
        index, named_by = (next(c for c in columns if c.lower() == wanted) for wanted in ("index", "name"))
        pairs = [(row[index], row[named_by]) for row in rows]
    else:
        kept = [line for line in lines if not line.lstrip().startswith("#")]
        matches = [_LINE.fullmatch(line) for line in kept]
        if wrong := [line for line, match in zip(kept, matches, strict=True) if match is None]:
            raise _not_understood(path, wrong[0][:200])
        pairs = [(match[1], match[2]) for match in matches if match]
    named: dict[int, str] = {}
    for number, name in pairs:
        try:
            value = int(number)
        except (TypeError, ValueError):
            raise _not_understood(path, f"index {number!r}"[:200]) from None
        if named.setdefault(value, name or "") != (name or ""):
            raise _not_understood(path, f"two names of the value {value}")
    return named


def _not_understood(path: Path, found: str) -> InputError:
    return InputError("The lookup table of the regions is not understood.", file=path, expected=_EXPECTED, found=found)
