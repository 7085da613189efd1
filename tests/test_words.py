"""Names and words: docstrings that name their subject, "per" for a distribution, no name that was given up."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[1]
CODE = [path for folder in ("mednext_jax", "tools", "configs") for path in sorted((ROOT / folder).rglob("*.py"))]
FOLDERS = ("docs", "launch", "tools/gpu", "mednext_jax/kernels")
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(page for folder in FOLDERS for page in (ROOT / folder).glob("*.md")),
]
# What a first line begins with that leaves its subject to the reader.
NO_SUBJECT = re.compile(r"(The same|As|It|They|This|These|That|Those|Also|See|Of|By|To|For|Likewise|What (no|only))\b")
COUNTED = (
    r"(one|two|three|four|an?|\d+) \w+ an? "
    r"(axis|case|channel|cluster|epoch|fold|lane|program|region|row|scan|site|stage|subject|tag|thread|voxel)\b"
)
# "a rate of something an hour" is no distribution; here a preposition or a verb stands before the second article.
NOT_COUNTED = re.compile(
    r" (above|across|after|and|as|at|below|by|for|from|has|if|in|is|leaves|of|on|or|over|than|to|with) an? "
)
GIVEN_UP = re.compile(r"\bmend:|\brecipe\.cleaning\b|\bread_out\b|\bfront_void\b|\bbehind_front\b|\bbig_g\b|planes 0\b")


def first_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Names of a module and of all in it that has a docstring, each with the docstring's first line."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (text := ast.get_docstring(node)):
            yield getattr(node, "name", "module"), text.splitlines()[0]


def test_the_first_line_of_a_docstring_names_its_subject():
    wrong = [(path.name, name, line) for path in CODE for name, line in first_lines(path) if NO_SUBJECT.match(line)]
    assert not wrong


def test_what_is_distributed_is_said_with_per():
    found = [
        (path.name, match[0])
        for path in (*CODE, *PAGES)
        for match in re.finditer(COUNTED, path.read_text())
        if not NOT_COUNTED.search(match[0])
    ]
    assert not found


def test_names_that_were_given_up_do_not_come_back():
    assert not [(path.name, found[0]) for path in (*CODE, *PAGES) if (found := GIVEN_UP.search(path.read_text()))]
