"""Errors that a user can put right: what is wrong, which file, expected and found, and a hint.

File names, header fields and JSON values come from strangers: `str` of an error holds them as `shown` writes them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Literal

# Longer texts (an array, a whole file) are cut where they are shown.
SHOWN_LENGTH = 4000
# Problems of one kind that are told beside the first; 200 subjects with one fault are one fault.
GROUP = 9


def shown(text: object) -> str:
    """`text` as it may be shown: what could steer a terminal or hide is written as an escape such as \\x1b.

    That holds for control characters and line ends, for those that turn the direction of text, for lone surrogates
    (a file name that is not UTF-8), and for what has no glyph. Texts above `SHOWN_LENGTH` characters are cut.
    """
    text = str(text)
    cut = len(text) - SHOWN_LENGTH
    if cut > 0:
        text = f"{text[:SHOWN_LENGTH]} ... and {cut} characters more"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the input; severity 'E' stops the work, 'W' is only said."""

    what: str
    file: str | None = None
    expected: str | None = None
    found: str | None = None
    hint: str | None = None
    severity: Literal["E", "W"] = "E"

    def __str__(self) -> str:
        lines = [shown(self.what)]
        for name in ("file", "expected", "found", "hint"):
            value = getattr(self, name)
            if value is not None:
                lines.append(f"  {name + ':':<9} {shown(value)}")
        return "\n".join(lines)


class InputError(ValueError):
    """The input or the call is wrong; the command line prints it without a traceback and exits 2."""

    def __init__(
        self,
        what: str,
        *,
        file: object = None,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
    ):
        named, asked, got = (None if value is None else str(value) for value in (file, expected, found))
        self.problems = [Problem(what, file=named, expected=asked, found=got, hint=hint)]
        super().__init__(str(self.problems[0]))

    @classmethod
    def of(cls, problems: Iterable[Problem]) -> InputError:
        """One error that reports several problems together."""
        problems = list(problems)
        error = cls.__new__(cls)
        error.problems = problems
        Exception.__init__(error, in_groups(problems))
        return error


def in_groups(problems: Iterable[Problem]) -> str:
    """Several problems as text, those of one kind together: the first whole, of others what differs, a count."""
    kinds: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        kinds.setdefault((problem.severity, problem.what), []).append(problem)
    lines = []
    for (severity, _), (first, *others) in kinds.items():
        lines.append(f"[{severity}] {first}")
        for other in others[:GROUP]:
            values = [(getattr(first, name), getattr(other, name)) for name in ("file", "expected", "found")]
            differing = [shown(theirs) for ours, theirs in values if theirs is not None and theirs != ours]
            lines.append(f"  also:     {'; '.join(differing) or 'once more'}")
        if len(others) > GROUP:
            lines.append(f"  ... and {len(others) - GROUP} more, {len(others) + 1} in all")
    return "\n".join(lines)


class WorkError(Exception):
    """The input was right but the work failed (no space, lost device); exits 1 without a traceback."""

    def __str__(self) -> str:
        return "\n".join(shown(line) for line in super().__str__().split("\n"))


class NothingDone(WorkError):
    """The input was right, and none of several pieces of work could be done; exits 3."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether `error`, of JAX or of one of its compilers, says that a device's memory is full."""
    return "RESOURCE_EXHAUSTED" in str(error)
