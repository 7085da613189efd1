"""The bench of fine-tuning: what is wrong with its arguments is told before any work."""

from __future__ import annotations

import sys

import pytest

from tools import bench_fine_tuning

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--labelled", "0"], "whole number from 1"),
        (["--held-out", "-2"], "whole number from 1"),
        (["--steps", "x"], "whole number from 1"),
        (["--seed", "-1"], "whole number from 0"),
        (["--rate", "nan"], "number above 0"),
        (["--scratch-rate", "0"], "number above 0"),
        (["--model", "nothing_here"], "nothing_here"),
    ],
)
def test_wrong_arguments_are_told_and_nothing_is_written(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench_fine_tuning", "out", *arguments])
    with pytest.raises(SystemExit) as end:
        bench_fine_tuning.main()
    assert end.value.code == 2 and words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
