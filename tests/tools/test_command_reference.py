"""Every command's help and its page: each argument is explained with its default, each command ends with an example."""

from __future__ import annotations

import argparse
import re

import pytest

from mednext_jax.parser import build_parser
from tools.command_reference import arguments, commands, explained, page

pytestmark = pytest.mark.core
COMMANDS = commands(build_parser())
ARGUMENTS = [(name, command, action) for name, command in COMMANDS.items() for action in arguments(command)]


def test_every_argument_is_explained():
    assert not [(name, action.dest) for name, _, action in ARGUMENTS if not action.help]


def test_every_help_says_the_default():
    """Switches are off without them; what must be given has no default."""
    silent = [
        (name, action.option_strings)
        for name, command, action in ARGUMENTS
        if action.option_strings
        and not action.required
        and not isinstance(action, argparse._StoreTrueAction)
        and "default" not in explained(command, action)
    ]
    assert not silent


def test_the_default_that_a_help_says_is_the_parser_s():
    wrong = []
    for name, command, action in ARGUMENTS:
        said = re.search(r"\(default: (\d[\d.]*)\b", explained(command, action))
        if isinstance(action.default, (int, float)) and not isinstance(action.default, bool):
            if said is None or float(said[1]) != action.default:
                wrong.append((name, action.dest, action.default))
        elif said is not None:
            wrong.append((name, action.dest, action.default))
    assert not wrong


@pytest.mark.parametrize("name", COMMANDS)
def test_a_help_ends_with_an_example_that_the_parser_takes(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    last = COMMANDS[name].format_help().rstrip().splitlines()[-1]
    assert last.startswith(f"example: mednext-jax {name}")
    options, rest = build_parser().parse_known_args(last.removeprefix("example: mednext-jax ").split())
    assert options.command == name and all(word.startswith("--config.") for word in rest)


def test_the_page_has_every_command_flag_and_choice():
    sections = dict(re.findall(r"^## ([\w-]+)\n(.*?)(?=^## |\Z)", page(), re.M | re.S))
    assert list(sections) == list(COMMANDS)
    for name, command, action in ARGUMENTS:
        rows = [line for line in sections[name].splitlines() if line.startswith("| `")]
        first = action.option_strings[0] if action.option_strings else action.metavar
        (row,) = [row for row in rows if re.match(rf"\| `{re.escape(first)}`", row)]
        assert all(f"`{word}`" in row for word in (*action.option_strings, *(action.choices or ())))
        assert explained(command, action).replace("|", r"\|") in row


def test_a_help_has_colours_on_a_terminal_alone(capsys):
    with pytest.raises(SystemExit):
        build_parser().parse_args(["predict", "--help"])
    assert "\x1b" not in capsys.readouterr().out
