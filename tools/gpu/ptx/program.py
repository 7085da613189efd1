"""PTX as Triton writes it, parsed."""

from __future__ import annotations

import dataclasses
import re
from typing import Any


class PTXError(RuntimeError):
    """The PTX does what no kernel may do, or what this module does not know."""


@dataclasses.dataclass(frozen=True)
class Instruction:
    text: str
    guard: tuple[str, bool] | None  # register, and whether it must be true
    op: tuple[str, ...]  # the words between the dots
    operands: tuple[Any, ...]  # text, or a tuple of texts for {...}


@dataclasses.dataclass(frozen=True)
class Program:
    """A parsed kernel: its instructions, where its labels point, and the number of threads of a block."""

    instructions: tuple[Instruction, ...]
    labels: dict[str, int]
    threads: int


def parse(ptx: str) -> Program:
    """The one kernel of a PTX module as Triton writes it."""
    body = re.search(r"\.reqntid (\d+)[^{]*\n\{\n(.*?)\n\}\n", ptx + "\n", re.DOTALL)
    if body is None:
        raise PTXError("no kernel in this PTX")
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in re.sub(r"//[^\n]*", "", body[2]).split("\n"):
        text = line.strip().rstrip(";").strip()
        label = re.match(r"(\$\w+):$", text)
        if label:
            labels[label[1]] = len(instructions)
        elif text and not text.startswith((".", "{", "}")):
            instructions.append(_instruction(text))
    return Program(tuple(instructions), labels, int(body[1]))


def _instruction(text: str) -> Instruction:
    match = re.match(r"(?:@(!?)(%\w+)\s+)?([\w.:]+)\s*(.*)$", text)
    if match is None:
        raise PTXError(f"not an instruction: {text}")
    operands = [
        tuple(re.split(r"\s*,\s*", part.strip("{} "))) if part.startswith("{") else part.strip()
        for part in re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*", match[4])
    ]
    guard = (match[2], not match[1]) if match[2] else None
    return Instruction(text, guard, tuple(match[3].split(".")), tuple(operands))
