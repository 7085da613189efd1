"""The command line: every wrong call exits 2 with a message and no traceback, and leaves nothing behind."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mednext_jax import main as command_line
from mednext_jax.errors import InputError, NothingDone, Problem, WorkError
from mednext_jax.parser import EXIT_STATUS, build_parser
from mednext_jax.version import __version__, commit

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[1]


def run(capsys, *arguments):
    try:
        status = command_line.main([str(a) for a in arguments])
    except SystemExit as exit_:
        status = exit_.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


COMMANDS = (
    *("demo", "simulate", "prepare", "train", "predict", "bids", "gather", "quantify", "report", "evaluate", "convert"),
    *("info", "models", "check-device"),
)


def test_help_names_every_command_and_needs_no_jax():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "mednext_jax", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert all(re.search(rf"^    {name}\s", done.stdout, re.M) for name in COMMANDS)
    assert " ".join(done.stdout.split()).endswith(EXIT_STATUS)
    assert "jax._src" not in done.stderr  # the import log: the help must not wait for JAX


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(capsys, name):
    status, out, _ = run(capsys, name, "--help")
    assert status == 0 and out.startswith(f"usage: mednext-jax {name}")


def pages():
    """The text of every page that a user may look into."""
    folders = ("docs", "launch", "mednext_jax/kernels", "tools")
    paths = [ROOT / "README.md", *(path for folder in folders for path in (ROOT / folder).glob("*.md"))]
    return "\n".join(path.read_text() for path in paths)


def options_of(parser):
    """Every option of a parser and of its commands: its spellings, such as -i and --input."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from options_of(command)
        elif action.option_strings and action.dest != "help":
            yield action.option_strings


@pytest.mark.parametrize("page", ["bids", "dicom"])
def test_the_commands_of_a_page_are_understood(page):
    lines = [
        line for line in (ROOT / "docs" / f"{page}.md").read_text().splitlines() if line.startswith("mednext-jax ")
    ]
    for line in lines:
        assert build_parser().parse_args(line.split()[1:]).command in ("bids", "predict")
    assert lines


def test_every_option_and_variable_is_on_a_page():
    text = pages()
    said = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", text))
    missing = [spellings for spellings in options_of(build_parser()) if not said & set(spellings)]
    code = "\n".join(path.read_text() for path in (ROOT / "mednext_jax").rglob("*.py"))
    variables = set(re.findall(r"environ(?:\.get\(|\[)\"(\w+)\"", code))
    variables |= set(re.findall(r"\bMEDNEXT_JAX_[A-Z_]+\b", code))
    clouds = {"TPU_WORKER_HOSTNAMES", "GCE_METADATA_IP"}  # which Google's machines set
    missing += [name for name in sorted(variables - clouds) if name not in text]
    assert not missing


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "required: COMMAND"),
        (("segment",), "invalid choice: 'segment'"),
        (("prepare", "d", "--out", "o", "--spacing", "thick"), "found 'thick'"),
        (("prepare", "d", "--out", "o", "--spacing", "-1"), "0.05 to 20 mm"),
        (("predict", "-i", "a", "-o", "b", "-m", "c", "--part", "3/2"), "1 <= K <= N"),
        (("predict", "-i", "a", "-m", "c"), "-o/--output"),
        (("info", "x", "--verbose"), "unrecognised arguments: --verbose"),
        (("simulate", "--out", "o", "--subjects", "two", "--contrast", "T2w"), "invalid int value: 'two'"),
    ],
)
def test_a_wrong_call_exits_2_and_says_why(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    status, _, err = run(capsys, *arguments)
    assert status == 2 and words in err and "Traceback" not in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "status"),
    [
        *((InputError("bad", file="f.nii"), 2), (WorkError("broke"), 1), (OSError(28, "No space left on device"), 1)),
        (NothingDone("all broke"), 3),
    ],
)
def test_exit_status_follows_the_kind_of_error(capsys, monkeypatch, error, status):
    def fail(options):
        raise error

    monkeypatch.setitem(command_line.COMMANDS, "info", fail)
    got, _, err = run(capsys, "info", "model")
    assert got == status and str(error) in err


INTERRUPTED = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from mednext_jax import main
def work(options):
    try:
        print("working", flush=True)
        time.sleep(60)
    finally:
        print("cleaning", flush=True)
        time.sleep(1)
        print("clean", flush=True)
main.COMMANDS["info"] = work
sys.exit(main.main(["info", "model"]))
"""


def test_a_second_ctrl_c_does_not_break_off_what_the_first_began():
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    for words in ("working", "cleaning"):
        assert process.stdout.readline() == f"{words}\n"
        process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert rest == "clean\nmednext-jax info: stopped\n" and process.returncode == 130


def test_the_version_says_commit_jax_and_device(capsys, monkeypatch):
    monkeypatch.setattr("mednext_jax.version.commit", lambda: "0123456789abcdef")
    status, out, _ = run(capsys, "--version")
    first, second = out.splitlines()
    assert status == 0 and first == f"mednext-jax {__version__} (commit 0123456789ab)"
    assert re.fullmatch(r"jax \d+\.\d+\.\d+\S*, \d+ x cpu \(cpu\)", second)
    monkeypatch.setattr("mednext_jax.version.commit", lambda: None)
    assert run(capsys, "--version")[1].splitlines()[0] == f"mednext-jax {__version__}"


def test_the_commit_is_git_s_or_none(tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(ROOT / "mednext_jax" / "version.py", copy)
    code = "import version; print(version.commit())"
    if (ROOT / ".git").exists():
        said = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
        commit.cache_clear()
        assert commit() == said
    # beside another project's .git, which is not ours
    (tmp_path / ".git").mkdir()
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(copy)!r}); {code}"],
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0 and done.stdout.strip() == "None"


def test_problems_are_reported_together():
    error = InputError.of([Problem("first", file="a"), Problem("second", hint="do this", severity="W")])
    assert str(error) == "[E] first\n  file:     a\n[W] second\n  hint:     do this"


def test_devices_that_cannot_be_woken_are_told_of_by_who_needs_them(monkeypatch):
    def fail():
        raise RuntimeError("no device")

    monkeypatch.setattr("jax.local_devices", fail)
    command_line._wake_devices()


def test_the_shell_completes_commands_and_flags(tmp_path):
    pytest.importorskip("argcomplete")
    assert "PYTHON_ARGCOMPLETE_OK" in Path(command_line.__file__).read_text()[:1024]
    for line, expected in (("mednext-jax qu", {"quantify "}), ("mednext-jax predict --thr", {"--threshold "})):
        asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9", "IFS": "\v"}
        asked |= {"_ARGCOMPLETE_IFS": "\v", "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "words")}
        done = subprocess.run([sys.executable, "-m", "mednext_jax"], env=os.environ | asked, capture_output=True)
        assert done.returncode == 0
        assert set((tmp_path / "words").read_text().split("\v")) == expected
