"""The page of every command and every flag, from the parser itself; `tools.docs_site` puts it on the site."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from mednext_jax.parser import build_parser


def page() -> str:
    """Markdown: a section for each command with its usage, its example and a table of its arguments."""
    return "\n".join(_lines(build_parser())) + "\n"


def commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Name -> parser of every command, in the order of the help."""
    (found,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found.choices)


def explained(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """An argument's help as `--help` shows it, with its values in place."""
    return parser._get_formatter()._expand_help(action) if action.help else ""


def arguments(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every argument of a command but --help."""
    yield from (action for action in parser._actions if action.dest != "help")


def _lines(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield from ("# Commands", "")
    yield f"{parser.description} `mednext-jax --version` prints the version, `mednext-jax COMMAND --help` a section of"
    yield "this page. The page is made from the parser of this version."
    yield from ("", "| command | what it does |", "| --- | --- |")
    for name, command in commands(parser).items():
        yield f"| [`{name}`](#{name}) | {_cell(command.description or '')} |"
    yield from ("", f"{_sentence(parser.epilog)} [More on it](reliability.md#exit-status).")
    for name, command in commands(parser).items():
        yield from _section(name, command)


def _section(name: str, command: argparse.ArgumentParser) -> Iterator[str]:
    yield from ("", f"## {name}", "", _sentence(command.description), "")
    yield from ("```bash", (command.epilog or "").removeprefix("example: "), "```", "")
    if rows := [_row(command, action) for action in arguments(command)]:
        yield from ("| argument | value | default | meaning |", "| --- | --- | --- | --- |")
        yield from rows


def _row(command: argparse.ArgumentParser, action: argparse.Action) -> str:
    names = ", ".join(f"`{option}`" for option in action.option_strings) or f"`{action.metavar or action.dest}`"
    cells = (names, _value(action), _default(action), _cell(explained(command, action)))
    return f"| {' | '.join(cells)} |"


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return "–"
    if action.choices is not None:
        return ", ".join(f"`{choice}`" for choice in action.choices)
    if not action.option_strings:
        return ""
    several = " ..." if action.nargs == "+" or isinstance(action, argparse._AppendAction) else ""
    return f"`{action.metavar or action.dest.upper()}{several}`"


def _default(action: argparse.Action) -> str:
    """The value that the parser itself puts in; where it is none, the help says what happens."""
    if action.required:
        return "must be given"
    if isinstance(action.default, bool):
        return "yes" if action.default else "no"
    if isinstance(action.default, tuple):
        return "`" + "/".join(map(str, action.default)) + "`"
    return "" if action.default is None else f"`{action.default}`"


def _sentence(text: str | None) -> str:
    return f"{(text or '')[:1].upper()}{(text or '')[1:]}."


def _cell(text: str) -> str:
    return text.replace("|", r"\|")
