"""The tool that fits temperature and thresholds: a network whose logits are known, and too large by a known factor."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from scipy.special import expit

from mednext_jax.errors import InputError
from mednext_jax.weights.directory import load_model, save_model
from mednext_jax.weights.recipe import Recipe
from tests.inference.conftest import CONFIG, random_params
from tools import calibrate_model
from tools.calibrate_model import calibrate
from tools.tables import CALIBRATION, read_tables

pytestmark = pytest.mark.core

FACTOR = 2.0


class Known:
    """A predictor that reads each scan's true logits from the scan itself, and says them twice as large."""

    def __init__(self, model, **_):
        self.recipe = load_model(model).recipe

    def __call__(self, image):
        scan = nib.load(image)
        self.probability = nib.Nifti1Image(expit(FACTOR * logits(scan)).astype(np.float32), scan.affine)
        return self


def logits(scan):
    return np.asarray(scan.dataobj, np.float64) / 1000


@pytest.fixture
def dataset(tmp_path):
    """Scans of two contrasts and two voxel sizes, whose voxels are 1000 times the logit of being PVS."""
    root, rng = tmp_path / "raw", np.random.default_rng(0)
    names = [f"sub-{i}_{contrast}" for i, contrast in enumerate(("T1w", "T1w", "FLAIR", "T1w"))]
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for i, name in enumerate(names):
        affine = np.diag([1, 1, 2.0 if i == 3 else 1, 1])
        voxels = rng.normal(-2000, 1500, (30, 30, 30)).astype(np.int16)
        voxels[:, :, :3] = 0  # of no brain, and not counted
        label = (rng.random(voxels.shape) < expit(voxels / 1000)) & (voxels != 0)
        for folder, ending, values in (("imagesTr", "_0000", voxels), ("labelsTr", "", label.astype(np.uint8))):
            nib.save(nib.Nifti1Image(values, affine), root / folder / f"{name}{ending}.nii.gz")
    about = {
        "name": "known",
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "pvs": 1},
        "numTraining": len(names),
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(about))
    return root


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate_model, "Predictor", Known)
    recipe = Recipe(channel_names=("MRI",), patch_size=(16, 16, 16))
    return save_model(tmp_path / "model", CONFIG, random_params(CONFIG, 0), recipe)


def test_a_known_network_gets_its_temperature_and_a_threshold_for_each_group(model, dataset, tmp_path, capsys):
    found = calibrate(model, [dataset], voxel_sizes_mm=(3.0, 1.2))
    recipe = load_model(model).recipe
    assert recipe.temperature == found["temperature"] == pytest.approx(FACTOR, rel=0.03)
    assert [(row["contrast"], row["largest_voxel"]) for row in recipe.thresholds] == [
        ("FLAIR", 1.2), ("T1w", 1.2), ("T1w", 3.0)
    ]  # fmt: skip
    # where Dice is best on voxels of probability p, p is half of that Dice
    scan = nib.load(dataset / "imagesTr" / "sub-2_FLAIR_0000.nii.gz")
    p = np.sort(expit(logits(scan))[logits(scan) != 0])[::-1]
    dice = 2 * np.cumsum(p) / (np.arange(1, len(p) + 1) + p.sum())
    assert recipe.thresholds[0]["threshold"] == pytest.approx(dice.max() / 2, abs=0.06)
    thresholds, reliability = read_tables(model / CALIBRATION)
    assert [row[:3] for row in thresholds.rows] == [
        ("FLAIR", "1.2", "1"), ("T1w", "1.2", "2"), ("T1w", "3", "1"), ("any", "any", "4")
    ]  # fmt: skip
    assert len(reliability.rows) == 20 and "mean nothing for patients" in thresholds.about
    assert load_model(model).provenance["calibration"] == {"data_sets": ["known"], "scans": 4, "criterion": "dice"}
    assert "[4/4] sub-3_T1w: T1w, 2 mm" in capsys.readouterr().out


def test_a_second_fit_goes_on_from_the_first(model, dataset, monkeypatch):
    first = calibrate(model, [dataset], voxel_sizes_mm=(3.0,))
    monkeypatch.setattr("tests.tools.test_calibrate_model.FACTOR", FACTOR / first["temperature"])
    assert calibrate(model, [dataset], voxel_sizes_mm=(3.0,))["temperature"] == pytest.approx(2.0, rel=0.03)


def test_scans_and_models_that_do_not_fit_are_refused(model, dataset, tmp_path):
    with pytest.raises(InputError, match="(?s)larger than those of any group.*2 mm"):
        calibrate(model, [dataset], voxel_sizes_mm=(1.2,))
    softmax = Recipe(channel_names=("MRI",), patch_size=(16, 16, 16), average="softmax")
    other = save_model(tmp_path / "softmax", CONFIG, random_params(CONFIG, 0), softmax)
    with pytest.raises(InputError, match="averages logits"):
        calibrate(other, [dataset])
    assert load_model(other).recipe == softmax and not (other / CALIBRATION).exists()


def test_data_sets_that_are_none_to_calibrate_on_are_refused_before_any_work(model, dataset, tmp_path):
    before = (model / "model.json").read_bytes()
    for sizes in ((), (0.0,), (float("nan"),)):
        with pytest.raises(InputError, match="voxel sizes are wrong"):
            calibrate(model, [dataset], voxel_sizes_mm=sizes)
    with pytest.raises(InputError, match="The model does not exist"):
        calibrate(tmp_path / "no_model", [dataset])
    about = json.loads((dataset / "dataset.json").read_text())
    (dataset / "dataset.json").write_text(json.dumps({**about, "channel_names": {"0": "T1w", "1": "T2w"}}))
    with pytest.raises(InputError, match="channel"):
        calibrate(model, [dataset])
    (dataset / "dataset.json").write_text(json.dumps(about))
    first = sorted((dataset / "labelsTr").iterdir())[0]
    whole = first.read_bytes()
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), first)
    with pytest.raises(InputError, match="(?s)another shape than its scan.*sub-0_T1w"):
        calibrate(model, [dataset], voxel_sizes_mm=(3.0,))
    first.unlink()
    with pytest.raises(InputError, match="sub-0_T1w"):
        calibrate(model, [dataset], voxel_sizes_mm=(3.0,))
    first.write_bytes(whole)
    assert (model / "model.json").read_bytes() == before and not (model / CALIBRATION).exists()
