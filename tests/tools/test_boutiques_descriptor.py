"""The Boutiques descriptor is the parser's, valid, and gives command lines that the parser takes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from mednext_jax.parser import build_parser
from tools.boutiques_descriptor import FILE, descriptor, text


@pytest.mark.core
def test_the_file_is_what_the_parser_says():
    assert FILE.read_text() == text(), "run: python -m tools.boutiques_descriptor"


@pytest.mark.core
def test_what_failed_is_told_by_codes():
    codes = {one["code"]: one["description"] for one in descriptor()["error-codes"]}
    assert sorted(codes) == [1, 2, 3, 130, 143]
    assert codes[1] == "the work failed, or some scans of several" and codes[143] == "SIGTERM"


def test_boutiques_takes_it():
    validator = pytest.importorskip("boutiques.validator")
    validator.validate_descriptor(descriptor())  # raises


def test_a_command_line_of_boutiques_is_one_of_ours(tmp_path, monkeypatch):
    boutiques = pytest.importorskip("boutiques")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scans").mkdir()
    call = {
        "input": "scans",
        "output": "out",
        "model": ["one", "hf://lab/pvs@v1"],
        "no_tta": True,
        "min_voxels": 3,
        "step": 0.25,
        "background": "compute",
    }
    (tmp_path / "call.json").write_text(json.dumps(call))
    made = boutiques.bosh(["exec", "simulate", "-i", "call.json", str(FILE)])
    options = build_parser().parse_args(shlex.split(made.shell_command)[1:])
    assert (options.input.name, options.output, options.model) == ("scans", Path("out"), call["model"])
    assert (options.tta, options.min_voxels, options.step, options.background) == (False, 3, 0.25, "compute")
    assert options.threshold is None and options.tables and not options.uncertainty
