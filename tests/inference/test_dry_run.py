"""What a dry run says: scans, tiles, models, time, memory, and nothing of it done."""

from __future__ import annotations

import json
import re

import pytest

from mednext_jax.errors import InputError
from mednext_jax.inference.dry_run import macs_of_tile
from mednext_jax.inference.predict import predict
from mednext_jax.inference.predictor import Predictor
from mednext_jax.model.config import MedNeXtConfig

pytestmark = pytest.mark.core


def test_a_dry_run_tells_and_writes_nothing(models, scans, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    predict(scans / "case0_0000.nii.gz", out, models[0], tta=False)
    monkeypatch.setattr(Predictor, "load", None)  # nothing is read or computed
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    capsys.readouterr()
    (planned,) = predict(scans / "case0_0000.nii.gz", out, models[0], tta=False, dry_run=True)
    assert planned["state"] == "done" and planned["tiles"] == 0
    planned = predict(scans, tmp_path / "new", models[0], tta=False, dry_run=True)
    assert [(row["case"], row["tiles"]) for row in planned] == [("case0", 8), ("case1", 12), ("case2", 12)]
    printed = capsys.readouterr().out
    sha256 = json.loads((models[0] / "model.json").read_text())["weights"]["sha256"]
    assert "case1: at most 12 tiles" in printed and sha256 in printed and "32 at most" in printed
    assert re.search(r"time +about \d+ s", printed) and re.search(r"memory +about [\d.]+ GiB", printed)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")} and not (tmp_path / "new").exists()
    with pytest.raises(InputError, match="not overwritten"):
        predict(scans, out, models[0], dry_run=True)


def test_a_dry_run_names_what_will_fail(models, scans, save_scan, tmp_path, capsys):
    folder = tmp_path / "scans"
    save_scan(folder / "good.nii.gz")
    (folder / "empty.nii.gz").write_bytes(b"")
    planned = predict(folder, tmp_path / "out", models[0], dry_run=True)
    assert {row["case"]: row["state"] for row in planned} == {"good": "to do", "empty": "fails"}
    assert "an empty file" in capsys.readouterr().out and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("variant", "kernel", "published"),
    [("S", 3, 130), ("S", 5, 169), ("B", 3, 170), ("M", 3, 248), ("L", 3, 500), ("L", 5, 564)],
)
def test_multiplications_of_a_network_are_those_that_its_authors_tell(variant, kernel, published):
    """MIC-DKFZ's README, "GFlops" of 128^3 voxels: multiplications of another counter (fvcore)."""
    found = macs_of_tile(MedNeXtConfig.variant(variant, kernel_size=kernel), (128, 128, 128)) / 1e9
    assert found == pytest.approx(published, rel=0.03)
