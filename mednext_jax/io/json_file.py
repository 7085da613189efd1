"""JSON from a stranger: bounded size, no duplicate keys, no NaN, and an error that names the file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mednext_jax.errors import InputError

MIB = 2**20


def read_json(path: str | os.PathLike, *, limit: int = MIB) -> Any:
    """The value in a JSON file of at most `limit` bytes.

    Raises InputError if the file is missing, larger, not UTF-8, not JSON, repeats a key or holds NaN.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("A file is missing.", file=path, expected="a JSON file")
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise InputError("The JSON file is too large.", file=path, expected=f"at most {limit} bytes")
    return parse_json(data, path)


def parse_json(data: bytes, path: object) -> Any:
    """The value of JSON bytes; `path` is only for the error."""
    try:
        return json.loads(data, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise InputError("The file is not valid JSON.", file=path, found=str(error)[:200]) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
