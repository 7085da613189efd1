"""The house as docs/architecture.md draws it: who may import whom, no circles, one file or type for each name."""

from __future__ import annotations

import ast
import collections
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mednext_jax"
PAGE = (ROOT / "docs" / "architecture.md").read_text()
FILES = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in PACKAGE.rglob("*.py")}
EVERYBODYS = {"errors", "settings", "command_room", "compilation_cache", "version"}
ABOVE_ALL = {"main", "parser", "predict_arguments", "demo", "__main__", "__init__"}


def rooms() -> dict[str, set[str]]:
    """Room -> the rooms that it may import, from the page's table."""
    table = PAGE.split("<!-- rooms -->")[1].split("<!-- end -->")[0]
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| `")]
    return {re.findall(r"`(\w+)`", room)[0]: set(re.findall(r"`(\w+)`", allowed)) for room, _, allowed in rows}


def imports() -> dict[str, set[str]]:
    """Module of the package -> modules of it that it imports anywhere: at the top, in functions, for types."""
    found: dict[str, set[str]] = {}
    for name, path in FILES.items():
        here = found[name] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                here.update(a.name for a in node.names if a.name.startswith("mednext_jax"))
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mednext_jax"):
                here.update(
                    f"{node.module}.{a.name}" if _is_module(f"{node.module}.{a.name}") else node.module
                    for a in node.names
                )
        here.discard(name)
    return found


def _is_module(name: str) -> bool:
    return name in FILES or f"{name}.__init__" in FILES


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def test_the_table_has_every_room():
    folders = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert set(rooms()) == folders
    assert all(allowed <= folders for allowed in rooms().values())


def test_no_file_imports_what_the_table_forbids():
    allowed = rooms()
    wrong = []
    for module, wanted in imports().items():
        room = room_of(module)
        for other in wanted:
            there = room_of(other)
            if room in ABOVE_ALL or there == room or there in EVERYBODYS:
                continue
            if there not in allowed.get(room, ()):
                wrong.append(f"{module} imports {other}")
    assert not wrong


def test_the_rooms_lie_above_each_other():
    """No room may, over others, import itself."""
    below = rooms()
    while free := [room for room, allowed in below.items() if not allowed & set(below)]:
        for room in free:
            del below[room]
    assert not below


def test_no_files_import_each_other_in_a_circle():
    graph = {m: {o for o in wanted if o in FILES} for m, wanted in imports().items() if room_of(m) not in ABOVE_ALL}
    while free := [m for m, wanted in graph.items() if not wanted & set(graph)]:
        for m in free:
            del graph[m]
    assert not graph, graph


def test_no_two_files_have_one_name_unless_the_page_says_why():
    homes = collections.defaultdict(list)
    for path in FILES.values():
        if path.name != "__init__.py":
            homes[path.name].append(path.parent.name)
    forms = set(re.findall(r"`(\w+\.py)`", PAGE.split("Forms of one thing")[1].split("##")[0]))
    doubles = {name: folders for name, folders in homes.items() if len(folders) > 1}
    assert set(doubles) == forms
    assert all(set(folders) <= {"ops", "kernels", "mosaic"} for folders in doubles.values())


def test_no_two_public_types_have_one_name():
    homes = collections.defaultdict(list)
    for name, path in FILES.items():
        for node in ast.parse(path.read_text()).body:
            named = [node.name] if isinstance(node, ast.ClassDef) else []
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                named = (
                    [node.targets[0].id]
                    if node.targets[0].id[:1].isupper() and not node.targets[0].id.isupper()
                    else []
                )
            for public in named:
                if not public.startswith("_"):
                    homes[public].append(name)
    # A name of a type in NumPy, JAX or typing, written short where it is used.
    shorthands = {"Array", "Params"}
    assert {n: where for n, where in homes.items() if len(where) > 1 and n not in shorthands} == {}


def test_every_file_has_a_test():
    """tests/room/test_file.py, or the room's `__init__` names the test."""
    missing = []
    for name, path in FILES.items():
        room = room_of(name)
        if room not in rooms() or path.name == "__init__.py":
            continue
        folder = ROOT / "tests" / path.parent.relative_to(PACKAGE)
        said = (PACKAGE / room / "__init__.py").read_text()
        if not (folder / f"test_{path.name}").is_file():
            line = re.search(rf"`?{path.stem}`?: (tests/[\w/]+\.py)", said)
            if line is None or not (ROOT / line[1]).is_file():
                missing.append(name)
    assert not missing
