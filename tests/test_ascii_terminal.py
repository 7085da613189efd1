"""Every command on a terminal that has only ASCII, with names and texts that have more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.data.case_store import CaseStore
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.weights.directory import save_model
from mednext_jax.weights.names import expected_shapes, from_torch_names
from mednext_jax.weights.recipe import Recipe

pytestmark = [pytest.mark.core, pytest.mark.slow]

ROOT = Path(__file__).parents[1]
# Neither the locale nor Python's own choice of UTF-8 helps; file names are then bytes that are no text.
ASCII = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "LANG": "C"}


def raw_dataset(root: Path) -> Path:
    for folder in ("imagesTr", "labelsTr", "regions"):
        (root / folder).mkdir(parents=True)
    for number in range(2):
        rng = np.random.default_rng(number)
        label = np.zeros((34, 36, 33), np.uint8)
        label[10:22, 12:15, 10:13] = 1
        voxels = (rng.normal(100, 10, label.shape) + 80 * label).astype(np.int16)
        for name, array in (
            (f"imagesTr/fäll-{number}_0000", voxels),
            (f"labelsTr/fäll-{number}", label),
            (f"regions/fäll-{number}", label + 1),
        ):
            nib.save(nib.Nifti1Image(array, np.eye(4)), root / f"{name}.nii.gz")
    (root / "regions" / "regions.json").write_text(json.dumps({"weiße Substanz": 1, "Räume": 2}))
    about = {"channel_names": {"0": "T2w"}, "labels": {"background": 0, "Räume": 1}, "name": "Jülich ± $2^"}
    (root / "dataset.json").write_text(json.dumps(about | {"numTraining": 2, "file_ending": ".nii.gz"}))
    return root


@pytest.fixture
def model(tmp_path):
    config = MedNeXtConfig(base_channels=2, expansion_ratios=(1,) * 9, block_counts=(1,) * 9)
    rng = np.random.default_rng(0)
    state = {key: rng.normal(0, 0.4, shape).astype(np.float32) for key, shape in expected_shapes(config).items()}
    recipe = Recipe(channel_names=("T2w",), patch_size=(16, 16, 16), labels={"background": 0, "Räume": 1})
    return save_model(tmp_path / "mödel", config, from_torch_names(config, state), recipe)


def test_commands_work_where_only_ascii_can_be_written(model, tmp_path):
    raw = raw_dataset(tmp_path / "Datensätze")

    def run(*arguments, status=0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "mednext_jax", *map(str, arguments)],
            cwd=tmp_path,
            env=os.environ | ASCII | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            timeout=600,
        )
        said = (done.stdout + done.stderr).decode("ascii")
        assert "Traceback" not in said and done.returncode == status, said
        return said

    assert "J\\xfclich \\xb1 $2^" in run(
        "prepare", raw, "--out", "prepäred", "--spacing", "none", "--splits", "kfold:2"
    )
    store = CaseStore.open(tmp_path / "prepäred")  # with the names of another locale
    assert [os.fsdecode(os.fsencode(case)) for case in store.ids] == ["fäll-0", "fäll-1"]
    assert store.read(store.ids[0])[1].any()
    assert "not UTF-8, which checkpoints need" in run(
        *("train", "--config", "demo", "--workdir", "läuf", "--config.data=prepäred"), status=2
    )
    assert "[2/2] f\\udcc3\\udca4ll-1: " in run("predict", "-i", raw / "imagesTr", "-o", "öut", "-m", model, "--no-tta")
    assert sorted(p.name for p in (tmp_path / "öut").glob("*_mask.nii.gz")) == [
        f"fäll-{i}_mask.nii.gz" for i in range(2)
    ]
    assert "fäll-0\t" in (tmp_path / "öut" / "volumes.tsv").read_text(encoding="utf-8")
    said = run("evaluate", "-p", "öut", "-r", raw / "labelsTr", "-o", "scöres", "--regions", raw / "regions")
    assert "R\\xe4ume" in said and "2 cases, mean \\xb1 SD" in said
    write_fold(tmp_path)
    assert "| R\\xe4ume" in run("evaluate", "--cv", ".")
    assert "- Jülich ± (T2w)" in (tmp_path / "cross_validation" / "table.md").read_text(encoding="utf-8")
    assert "R\\xe4ume" in run("info", model)
    assert "written  c\\udcc3\\udcb6nverted" in run("convert", model, "cönverted", "--upkern", "5")
    assert "fehlt-\\udcc3\\udca4" in run("info", "fehlt-ä", status=2)


def write_fold(folder: Path) -> None:
    """The scores as those of a trained fold."""
    scores = json.loads((folder / "scöres" / "summary.json").read_text())
    fold = {"index": "0", "count": 1, "splits": "kfold:2", "data_set": "Jülich ±", "data_set_sha256": "x"}
    fold |= {"channels": ["T2w"], "spacing": None, "cases": sorted(scores["cases"])}
    (folder / "fold" / "validation").mkdir(parents=True)
    (folder / "fold" / "validation" / "summary.json").write_text(json.dumps(scores | {"fold": fold}))
