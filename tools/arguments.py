"""Kinds of command-line arguments that several tools take; a wrong one ends the tool with one line and status 2."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def integers(example: str, separator: str = ",") -> Callable[[str], tuple[int, ...]]:
    """A tuple of as many integers as `example` has: for the `type` of an argument."""

    def parse(text: str) -> tuple[int, ...]:
        try:
            found = tuple(map(int, text.split(separator)))
        except ValueError:
            found = ()
        if len(found) != len(example.split(separator)):
            raise argparse.ArgumentTypeError(f"expected integers like {example}, found {text!r}")
        return found

    return parse


def some_of(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    """Names out of `known`, separated by commas: for the `type` of an argument."""

    def parse(text: str) -> list[str]:
        found = text.split(",")
        if unknown := [name for name in found if name not in known]:
            raise argparse.ArgumentTypeError(f"expected some of {','.join(known)}, found {','.join(unknown)!r}")
        return found

    return parse
