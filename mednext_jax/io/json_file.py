"""JSON from a stranger: bounded size, depth and numbers, no duplicate keys, no NaN, an error that names the file."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from mednext_jax.errors import InputError
from mednext_jax.io.absent import refuse_absent

MIB = 2**20
# Deeper values break what walks through them (repr, comparison, dumping), some without a way to catch it.
MAX_DEPTH = 64


def read_json(path: str | os.PathLike, *, limit: int = MIB) -> Any:
    """The value in a JSON file of at most `limit` bytes.

    Raises InputError if the file is missing, larger, not UTF-8, not JSON, repeats a key, is nested deeper than
    `MAX_DEPTH`, or holds NaN, an integer beyond 64 bits or a number beyond float64.
    """
    path = Path(path)
    refuse_absent(path, "file", "a JSON file")
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise InputError("The JSON file is too large.", file=path, expected=f"at most {limit} bytes")
    return parse_json(data, path)


def parse_json(data: bytes, path: object) -> Any:
    """The value of JSON bytes; `path` is only for the error."""
    try:
        value = json.loads(
            data,
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_int=_bounded_int,
            parse_float=_finite_float,
        )
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        found = "brackets within brackets, too deep" if isinstance(error, RecursionError) else str(error)[:200]
        raise InputError("The file is not valid JSON.", file=path, found=found) from None
    level = [value]
    for _ in range(MAX_DEPTH):
        containers = [item for item in level if isinstance(item, dict | list)]
        if not containers:
            return value
        level = [child for item in containers for child in (item.values() if isinstance(item, dict) else item)]
    raise InputError(
        "The JSON file is nested too deep.", file=path, expected=f"at most {MAX_DEPTH} brackets within brackets"
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _bounded_int(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise ValueError(f"{text[:30]} is an integer beyond 64 bits")
    return int(text)


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:30]} is a number beyond float64")
    return value
