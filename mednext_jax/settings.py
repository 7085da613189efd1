"""A setting: default, type, range and meaning of a field of a configuration, said once, beside the code that reads it.

A group of settings is a frozen dataclass whose fields are `setting(...)`; a configuration contains groups.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from mednext_jax.errors import InputError, Problem

Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True)
class Range:
    """The values that a setting may take, in words and as a test of a value of its type."""

    words: str
    holds: Callable[[Any], bool]


def setting(default: Value, allowed: Range, meaning: str) -> Value:
    """The field of a dataclass with its default, its range and a line on what it does and where its value is from."""
    return dataclasses.field(default=default, metadata={"allowed": allowed, "meaning": meaning})


def integer(lowest: int, highest: int | None = None) -> Range:
    """Integers from `lowest`, both ends included."""
    if highest is None:
        return Range(f"an integer of at least {lowest}", lambda v: v >= lowest)
    return Range(f"an integer from {lowest} to {highest}", lambda v: lowest <= v <= highest)


def number(lowest: float, highest: float | None = None) -> Range:
    """Finite numbers from `lowest`, both ends included."""
    if highest is None:
        return Range(f"a finite number at least {lowest:g}", lambda v: math.isfinite(v) and lowest <= v)
    return Range(f"a number from {lowest:g} to {highest:g}", lambda v: lowest <= v <= highest)


def one_of(*choices: str) -> Range:
    """The range of a field that is one of some words."""
    return Range(" or ".join(map(repr, choices)), lambda v: v in choices)


def span(lowest: float, highest: float) -> Range:
    """Two numbers that are the ends of an interval within [lowest, highest]."""
    return Range(
        f"two numbers, the first not larger, from {lowest:g} to {highest:g}",
        lambda v: len(v) == 2 and lowest <= v[0] <= v[1] <= highest,
    )


ABOVE_ZERO = Range("a finite number above 0", lambda v: 0 < v < math.inf)
BELOW_ONE = Range("a number from 0 to below 1", lambda v: 0 <= v < 1)
PROBABILITY = number(0, 1)
SWITCH = Range("True or False", lambda v: True)
TEXT = Range("text", lambda v: True)


def read_group(
    group: Any, values: Mapping[str, Any], name: str, others: Mapping[type, Callable[[Any, str], Any]]
) -> tuple[Any, list[Problem]]:
    """(`group` with `values`, what is wrong with them): problems are named `name`.field, absent values stay.

    `others`: how a field is read that is not a group of settings, by the type of its default: (value, name) -> value,
    or InputError. A group may have `problems_between()`, name of a field or "" -> Range that the group breaks.
    """
    fields, problems = {field.name: field for field in dataclasses.fields(group)}, []
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "known fields: " + ", ".join(fields)
            problems.append(Problem(f"unknown configuration field {name}.{str(key)[:100]}", hint=hint))
    read: dict[str, Any] = {}
    for key, field in fields.items():
        if key not in values:
            continue
        present, value, full = getattr(group, key), values[key], f"{name}.{key}"
        if "allowed" in field.metadata:
            read[key], wrong = _read_setting(field, value, full)
            problems += wrong
        elif type(present) in others:
            try:
                read[key] = others[type(present)](value, full)
            except InputError as error:
                problems += error.problems
        elif isinstance(value, Mapping):
            read[key], wrong = read_group(present, value, full, others)
            problems += wrong
        else:
            problems.append(_wrong(full, "a group of fields", value))
    if problems:
        return group, problems
    made = dataclasses.replace(group, **read)
    between = made.problems_between() if hasattr(made, "problems_between") else {}
    for key, expected in between.items():
        problems.append(_wrong(f"{name}.{key}" if key else name, expected, getattr(made, key) if key else values))
    return made, problems


def _read_setting(field: dataclasses.Field[Any], value: Any, name: str) -> tuple[Any, list[Problem]]:
    allowed = cast(Range, field.metadata["allowed"])
    if isinstance(field.default, tuple) and isinstance(value, list):
        value = tuple(value)
    elif isinstance(field.default, float) and type(value) is int:
        value = float(value)
    try:
        right = isinstance(value, type(field.default)) and allowed.holds(value)
        right &= isinstance(value, bool) == isinstance(field.default, bool)
    except (TypeError, IndexError):
        right = False
    return value, [] if right else [_wrong(name, allowed.words, value)]


def _wrong(name: str, expected: str, found: Any) -> Problem:
    return Problem(f"{name} is not valid.", expected=expected, found=repr(found)[:200])
