"""What prediction.json tells of a run: state, models and their sources, failures, warnings."""

from __future__ import annotations

import json
import logging

import pytest

from mednext_jax import main as command_line
from mednext_jax.convert.convert import convert
from mednext_jax.errors import Problem
from mednext_jax.inference.failures import Failure
from mednext_jax.inference.run_report import RunReport
from mednext_jax.io.json_file import read_json
from tests.convert.torch_archive import DATA

CALL = ("--no-tta", "--no-tables")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run_of(folder):
    return json.loads((folder / "prediction.json").read_text())["run"]


def test_a_run_tells_its_models_failures_and_warnings(models, save_scan, tmp_path, capsys):
    save_scan(tmp_path / "scans/good_T1w.nii.gz")
    save_scan(tmp_path / "scans/other_T2w.nii.gz", seed=1)
    (tmp_path / "scans/bad_T2w.nii.gz").write_bytes(b"")
    call = ["predict", "-i", str(tmp_path / "scans"), "-o", str(tmp_path / "out"), "-m", str(models[0]), *CALL]
    assert command_line.main(call) == 1  # some failed
    run = run_of(tmp_path / "out")
    assert (run["state"], run["done"], list(run["failed"])) == ("some scans failed", 2, ["bad_T2w"])
    assert run["seconds"] > 0 and run["models"][0]["given"] == str(models[0])
    (warning,) = [text for text in run["warnings"] if "contrast" in text]
    assert "good_T1w" in warning and "expected: T2w" in warning and "found:    T1w" in warning
    assert warning.splitlines()[0] in capsys.readouterr().out
    (tmp_path / "scans/bad_T2w.nii.gz").unlink()
    assert command_line.main(call) == 0  # goes on, and is done
    assert (run_of(tmp_path / "out")["state"], run_of(tmp_path / "out")["done"]) == ("done", 2)


def test_no_scan_done_is_another_status_than_some(models, save_scan, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    save_scan(tmp_path / "scan.nii.gz")
    monkeypatch.setattr("mednext_jax.inference.outputs.write_image", full)
    call = ["predict", "-i", str(tmp_path / "scan.nii.gz"), "-o", str(tmp_path / "out"), "-m", str(models[0]), *CALL]
    assert command_line.main(call) == 3
    assert not (tmp_path / "out").exists()


def test_a_converted_model_is_told_by_its_source(save_scan, tmp_path):
    save_scan(tmp_path / "scan.nii.gz")
    given = DATA / "checkpoint_final.pth"
    convert(given, tmp_path / "model")
    about = json.loads((tmp_path / "model/model.json").read_text())["provenance"]
    call = ["predict", "-i", str(tmp_path / "scan.nii.gz"), "-o", str(tmp_path / "out"), "-m", str(given), *CALL]
    assert command_line.main(call) == 0
    (told,) = run_of(tmp_path / "out")["models"]
    assert told == {
        "given": str(given),
        "source": "checkpoint_final.pth",
        "source_sha256": about["source_sha256"],
        "source_kind": "nnU-Net v2 checkpoint",
    }


def test_warnings_are_still_printed(capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as in a process of its own
    with RunReport() as told:
        logging.getLogger("mednext_jax.inference.predictor").warning("odd scan")
    assert told.warnings == ["odd scan"] and capsys.readouterr().err == "odd scan\n"
    logging.getLogger("mednext_jax.inference.predictor").warning("after")
    assert told.warnings == ["odd scan"]


def test_a_cohort_of_failures_leaves_a_record_that_can_be_read_again(tmp_path):
    record = tmp_path / "prediction.json"
    record.write_text("{}")

    class NoModels:
        given, paths = (), ()

    with RunReport() as told:
        told.begin(record, {"step": 0.5}, NoModels())
        bad = (Problem("bad " * 100),)
        told.end([], [Failure(f"case{i}", "read", bad, by_input=True) for i in range(10_000)])
        told.warnings += ["odd \ud800" * 50] * 10_000
    about = read_json(record)
    assert about["step"] == 0.5 and about["run"]["state"] == "no scan done"
    shown_ = len(about["run"]["failed"]) - 1
    assert shown_ > 100 and about["run"]["failed"][""] == f"{10_000 - shown_} more, in scans.json"
    assert about["run"]["warnings"][-1] == f"{10_001 - len(about['run']['warnings'])} more"


def test_a_run_that_is_stopped_says_so(tmp_path):
    record = tmp_path / "prediction.json"
    record.write_text("{}")

    class NoModels:
        given, paths = (), ()

    with pytest.raises(KeyboardInterrupt), RunReport() as told:
        told.begin(record, {}, NoModels())
        raise KeyboardInterrupt
    assert read_json(record)["run"]["state"] == "stopped"
