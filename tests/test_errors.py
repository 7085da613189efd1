"""What an error shows: nothing that steers a terminal, and nothing that an encoding refuses."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mednext_jax.errors import SHOWN_LENGTH, InputError, Problem, WorkError, shown

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Müller 1 mm³", "Müller 1 mm³"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("M\udcfcller", r"M\udcfcller"),
        ("nii\u202egz", r"nii\u202egz"),
        ("a\x9bb\u2066c\u2028", r"a\x9bb\u2066c\u2028"),
        (b"\x1b", r"b'\x1b'"),
    ],
)
def test_what_steers_a_terminal_is_shown_as_an_escape(text, expected):
    assert shown(text) == expected


def test_long_texts_are_cut():
    assert shown("x" * (SHOWN_LENGTH + 7)) == "x" * SHOWN_LENGTH + " ... and 7 characters more"


def test_every_part_of_every_error_is_shown_safely():
    odd = "\x1b[2J\u202e\udcff"
    single = InputError(odd, file=odd, expected=odd, found=odd, hint=odd)
    for error in (single, InputError.of([Problem(odd, odd, odd, odd, odd)]), WorkError(odd)):
        text = str(error)
        assert not set(odd[0] + odd[4:]) & set(text) and r"\x1b[2J\u202e\udcff" in text
        text.encode("utf-8")
    assert single.problems[0].file == odd  # the name itself, for who opens the file
    assert str(WorkError("one\ntwo")) == "one\ntwo"


@pytest.mark.parametrize("name", ["no\x1b[31m.pt", "no-Müller.pt", "no-\udcfc.pt"])
def test_the_command_line_writes_to_an_ascii_terminal(name, tmp_path):
    environment = {"PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(sys.path), "HOME": str(tmp_path)}
    run = [sys.executable, "-m", "mednext_jax.main", "info", tmp_path / name]
    done = subprocess.run(run, capture_output=True, env=environment, timeout=120)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr and b"\x1b" not in done.stderr and done.stderr.isascii()
