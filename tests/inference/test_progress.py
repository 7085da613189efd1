"""What is said while a cohort is done: lines, bars, a log, an end that does not count the compiler."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from mednext_jax.errors import Problem
from mednext_jax.inference import progress
from mednext_jax.inference.failures import Failure
from mednext_jax.inference.outputs import Written
from mednext_jax.inference.predict import predict
from mednext_jax.inference.predictor import Predictor
from mednext_jax.inference.progress import QUIET, VERBOSE, CohortProgress
from mednext_jax.inference.scans import Scan
from mednext_jax.inference.stream import Done

pytestmark = pytest.mark.core

SCAN = Scan("a", (), Path("m"), Path("p"))
ROW = {"scan": "a", "count": 1, "volume_mm3": 1.0, "seconds": 1.0, "flags": ""}
DONE = Done(Written(ROW, "1 PVS, 1.0 mm3"), {"read": 0.25, "device": 1.0}, 7)
FAILED = Failure("a", "segment", (Problem("No."),), by_input=True)


def test_the_time_left_does_not_count_the_first_scan(monkeypatch, capsys):
    """It waited a minute for the compiler; each of the next takes two seconds."""
    clock = iter([0.0, 60.0, 62.0, 64.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    said = CohortProgress(10, bars=False)
    said.begin("one model")
    for _ in range(3):
        said.take(SCAN, DONE)
    first, second, third = capsys.readouterr().out.splitlines()[1:]
    assert "ETA" not in first and second.endswith("ETA 16 s") and third.endswith("ETA 14 s")


def test_the_bars_paces_leave_the_compiler_out(monkeypatch, capsys):
    now = [1000.0]
    monkeypatch.setattr(progress.time, "time", lambda: now[0])
    monkeypatch.setattr(progress.tqdm, "_time", lambda self: now[0], raising=False)
    said = CohortProgress(10, bars=True)
    said.begin("one model")
    said._scans._time = lambda: now[0]
    said._scans.start_t = now[0]
    now[0] += 60
    said.take(SCAN, DONE)
    for _ in range(2):
        now[0] += 2
        said.take(SCAN, DONE)
    about = said._scans.format_dict
    assert (about["n"], about["initial"], about["elapsed"], about["rate"]) == (3, 1, 4, None)
    assert "00:14" in said._scans.format_meter(**about)  # seven scans of two seconds
    said.tiles(2, 8)
    assert said._tiles.initial == 2 and said._tiles.n == 2  # the first round waited for the compiler
    said.tiles(4, 8)
    assert said._tiles.n == 4
    said.tiles(8, 8)
    assert said._tiles is None
    said.close()
    assert "tiles" in capsys.readouterr().err


def test_quiet_says_nothing_and_verbose_the_stages_and_the_log_has_a_line_for_each(tmp_path, capsys):
    for level in (QUIET, VERBOSE):
        log = tmp_path / f"{level}.log"
        said = CohortProgress(2, log=log, level=level, bars=False)
        said.begin("one model", ["b"])
        said.take(SCAN, DONE)
        said.take(SCAN, FAILED)
        said.warn([Problem("Odd.", severity="W")])
        said.end()
        out, err = capsys.readouterr()
        assert not err
        if level == QUIET:
            assert not out
        else:
            assert "(7 tiles; read 0.25 s, device 1.00 s)" in out and "failed (segment)" in out and "Odd." in out
        lines = log.read_text().splitlines()
        assert [re.sub(r"^\S+ \S+ ", "", line)[:9] for line in lines[2:4]] == ["[1/2] a: ", "[2/2] a: "]


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path, capsys):
    said = CohortProgress(1, log=tmp_path / "absent" / "a.log", bars=False)
    said.take(SCAN, DONE)
    assert "[1/1] a: 1 PVS" in capsys.readouterr().out


def test_a_terminal_sees_bars_and_gets_the_same_results(models, save_scan, tmp_path, monkeypatch, capsys):
    for i in range(2):
        save_scan(tmp_path / "scans" / f"case{i}.nii.gz", seed=i)
    predict(tmp_path / "scans", tmp_path / "plain", models, tta=False)
    assert "tile" not in capsys.readouterr().err
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    predict(tmp_path / "scans", tmp_path / "bars", models, tta=False)
    said = capsys.readouterr()
    assert "scans:" in said.err and "tiles:" in said.err and "[2/2] case1: " in said.out
    for path in (tmp_path / "plain").glob("*.nii.gz"):
        assert path.read_bytes() == (tmp_path / "bars" / path.name).read_bytes()
    predict(tmp_path / "scans", tmp_path / "quiet", models, tta=False, quiet=True)
    said = capsys.readouterr()
    assert said.out == said.err == ""
    assert len(re.findall(r"\] case\d: ", (tmp_path / "quiet" / "predict.log").read_text())) == 2


def test_tiles_are_counted_over_all_networks(models, save_scan, tmp_path):
    predictor, seen = Predictor(models, tta=False, tile_batch=3), []
    loaded = predictor.load(save_scan(tmp_path / "a.nii.gz"))
    expected = np.asarray(predictor.evidence(loaded))
    found = predictor.evidence(loaded, lambda done, count: seen.append((done, count)))
    np.testing.assert_array_equal(found, expected)
    assert seen == [(n, 16) for n in (3, 6, 8, 11, 14, 16)]
