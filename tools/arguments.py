"""Kinds of command-line arguments that several tools take; a wrong one ends the tool with one line and status 2.

And how a tool ends that cannot go on: `told_in_words`.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Callable, Iterator

from mednext_jax.errors import InputError, WorkError, shown


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


def whole(lowest: int) -> Callable[[str], int]:
    """A whole number of at least `lowest`: for the `type` of an argument."""

    def parse(text: str) -> int:
        try:
            found = int(text)
        except ValueError:
            found = None
        if found is None or found < lowest:
            raise argparse.ArgumentTypeError(f"expected a whole number from {lowest}, found {text!r}")
        return found

    return parse


def above_zero(text: str) -> float:
    """A finite number above 0: the `type` of an argument."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text!r}")
    return found


def add_form(parser: argparse.ArgumentParser) -> None:
    """Add --form, which `tools.programs.operations_in` takes."""
    parser.add_argument(
        "--form", choices=("kernels", "xla"), default="kernels", help="of a TPU's blocks: kernels, or XLA's operations"
    )


def without_matplotlib(what: str, *, otherwise: str = "") -> InputError:
    """What to raise where matplotlib is needed and not there; otherwise: another way than to install it."""
    return InputError(
        what,
        expected="matplotlib",
        found="it is not installed",
        hint=f"pip install 'mednext-jax[evaluate]'{otherwise}",
    )


@contextlib.contextmanager
def told_in_words(tool: str) -> Iterator[None]:
    """End the tool with what is wrong, as `mednext-jax` does: status 2 for wrong input, 1 for work that failed."""
    try:
        yield
    except InputError as error:
        print(f"{tool}: {error}", file=sys.stderr)
        sys.exit(2)
    except (WorkError, OSError) as error:
        print(f"{tool}: {shown(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        sys.exit(1)
