"""The options of `evaluate`: what they call, and which are refused."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mednext_jax import main as command_line

pytestmark = pytest.mark.core


@pytest.fixture
def calls(monkeypatch):
    made = []
    monkeypatch.setattr("mednext_jax.evaluate.evaluate.evaluate", lambda *a, **k: made.append((a, k)))
    return made


def run(capsys, *arguments):
    try:
        status = command_line.main(["evaluate", *arguments])
    except SystemExit as exit_:
        status = exit_.code
    return status, capsys.readouterr().err


def test_one_tool_without_a_name(calls, capsys):
    assert run(capsys, "-p", "masks", "-r", "truth", "-o", "out", "--threshold", "0.3", "--labels", "1,2")[0] == 0
    ((predictions, references, out), options) = calls[0]
    assert (predictions, str(references), str(out)) == ("masks", "truth", "out")
    assert options["threshold"] == 0.3 and options["labels"] == (1, 2) and options["raters"] is None
    assert options["figures"] and not options["resample"] and options["sweep"] is None


def test_several_by_name_or_by_their_folder(calls, capsys):
    arguments = ["-p", "mine=a/b", "-p", "c/shiva", "-r", "t", "-o", "o", "--threshold", "mine=0.5", "--threshold"]
    arguments += ["shiva=0.2", "--labels", "reference=1", "--raters", "R1=x", "y/R2", "--resample", "--no-figures"]
    assert run(capsys, *arguments)[0] == 0
    ((predictions, *_), options) = calls[0]
    assert predictions == {"mine": "a/b", "shiva": "c/shiva"} and options["threshold"] == {"mine": 0.5, "shiva": 0.2}
    assert options["labels"] == {"reference": (1,)} and options["raters"] == {"R1": "x", "R2": "y/R2"}
    assert options["resample"] and not options["figures"]


def test_a_path_that_exists_is_no_name(calls, capsys, tmp_path):
    (tmp_path / "a=b").mkdir()
    assert run(capsys, "-p", str(tmp_path / "a=b"), "-r", "t", "-o", "o")[0] == 0
    assert calls[0][0][0] == str(tmp_path / "a=b")


def test_raters_alone_and_a_sweep(calls, capsys):
    assert run(capsys, "--raters", "scores.tsv", "-o", "o")[0] == 0
    assert calls[0][0][:2] == (None, None) and calls[0][1]["raters"] == "scores.tsv"
    assert run(capsys, "-p", "p", "-r", "t", "-o", "o", "--sweep", "--write-threshold", "model")[0] == 0
    assert calls[1][1]["sweep"] == "dice" and str(calls[1][1]["write_threshold"]) == "model"
    assert run(capsys, "-p", "p", "-r", "t", "-o", "o", "--sweep", "cluster_dice")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-p", "a", "-o", "o"), "Nothing says what to evaluate"),
        (("--raters", "A", "B"), "--raters and -o"),
        (("-p", "x/a", "-p", "y/a", "-r", "t", "-o", "o"), "a name is there twice"),
        (("-p", "=a", "-r", "t", "-o", "o"), "expected VALUE or NAME=VALUE"),
        (("-p", "a", "-r", "t", "-o", "o", "--threshold", "high"), "T from 0 to 1"),
        (("-p", "a", "-r", "t", "-o", "o", "--threshold", "0.5", "--threshold", "a=0.3"), "for all and again"),
        (("-p", "a", "-r", "t", "-o", "o", "--labels", "1;2"), "whole numbers"),
        (("-p", "a", "-r", "t", "-o", "o", "--sweep", "volume"), "invalid choice"),
        (("--cv", "folds", "--sweep"), "only -o"),
        (("--cv", "folds", "-p", "a"), "only -o"),
        (("--cv", "folds", "--raters", "a"), "only -o"),
        (("--cv", "folds", "--resample"), "only -o"),
    ],
)
def test_wrong_calls(calls, capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    status, error = run(capsys, *arguments)
    assert status == 2 and words in error and "Traceback" not in error and not calls


def test_scores_wait_for_no_jax_and_no_extra():
    code = "import sys, mednext_jax.evaluate.evaluate; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"jax", "torch", "matplotlib", "SimpleITK", "skimage", "pandas"} & set(loaded)


def test_every_option_has_a_help_text(capsys):
    with pytest.raises(SystemExit):
        command_line.main(["evaluate", "--help"])
    text = capsys.readouterr().out
    for words in ("(0 to 1)", "default: probability maps are refused", "default: all above 0", "default: dice"):
        assert words in " ".join(text.split())
    assert all(group in text for group in ("how maps are read:", "raters:", "choosing a threshold"))
