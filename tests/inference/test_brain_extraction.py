"""Brain masks by a tool: used, saved beside the outputs, and refused in words where there is no tool or no brain."""

from __future__ import annotations

import importlib.metadata
import json
import sys
import types

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.errors import InputError, WorkError
from mednext_jax.inference.brain_extraction import named_tool, open_brain_extraction
from mednext_jax.inference.predict import predict
from mednext_jax.inference.predictor import Predictor
from mednext_jax.inference.scans import Scan
from mednext_jax.io.nifti import read_scan

pytestmark = pytest.mark.core


class Tool:
    """deepbet, as far as it is called: the brain is what is bright; a dark scan has none."""

    def __init__(self, no_gpu=False):
        assert no_gpu  # its memory is JAX's

    def run(self, image):
        voxels = np.asarray(image.dataobj)
        assert voxels.max() > 0, "Not enough foreground to calculate bounding box"
        mask = np.zeros(voxels.shape, np.float32)
        mask[3:20, 4:20, 2:17] = 1
        return image, nib.Nifti1Image(mask, image.affine), 1.0


@pytest.fixture
def tool(monkeypatch):
    real = importlib.metadata.version
    monkeypatch.setitem(sys.modules, "deepbet", types.SimpleNamespace(BrainExtraction=Tool))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9" if name == "deepbet" else real(name))


def test_the_mask_is_used_and_saved(tool, models, variant, save_scan, tmp_path):
    path, out = save_scan(tmp_path / "a.nii.gz"), tmp_path / "out"
    extracted = variant(optional_steps=("brain",))
    predict(path, out, extracted, tta=False, brain_extraction="deepbet")
    mask, scan = nib.load(out / "a_desc-brain_mask.nii.gz"), nib.load(path)
    brain = np.asarray(mask.dataobj)
    assert mask.get_data_dtype() == np.uint8 and brain.sum() == 17 * 16 * 15
    np.testing.assert_array_equal(mask.affine, scan.affine)
    nib.save(nib.Nifti1Image(np.asarray(scan.dataobj) * brain, scan.affine), tmp_path / "by_hand.nii.gz")
    expected = Predictor(models[0], tta=False)(tmp_path / "by_hand.nii.gz").probability
    found = nib.load(out / "a_probability.nii.gz")
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(expected.dataobj))
    assert json.loads((out / "prediction.json").read_text())["brain_extraction"] == "deepbet 9.9"
    with pytest.raises(InputError, match="brain_extraction"):
        predict(path, out, models[0], tta=False)
    (out / "a_desc-brain_mask.nii.gz").unlink()
    predict(path, out, extracted, tta=False, brain_extraction="deepbet")
    assert (out / "a_desc-brain_mask.nii.gz").is_file()


def test_a_scan_without_a_brain_is_one_failure(tool, models, save_scan, tmp_path):
    save_scan(tmp_path / "scans" / "a.nii.gz")
    dark = nib.load(save_scan(tmp_path / "scans" / "b.nii.gz"))
    nib.save(nib.Nifti1Image(-np.asarray(dark.dataobj), dark.affine), tmp_path / "scans" / "b.nii.gz")
    with pytest.raises(WorkError, match=r"deepbet 9\.9 found no brain"):
        predict(tmp_path / "scans", tmp_path / "out", models[0], tta=False, brain_extraction="deepbet")
    failed = (tmp_path / "out" / "failed.tsv").read_text().splitlines()
    assert len(failed) == 2 and failed[1].startswith("b\t") and "\tbrain\t" in failed[1]
    assert len(list((tmp_path / "out").glob("*_desc-brain_mask.nii.gz"))) == 1


def test_bids_names_the_mask_and_its_tool(tool, models, save_scan, tmp_path):
    save_scan(tmp_path / "raw" / "sub-01" / "anat" / "sub-01_T2w.nii.gz")
    predict(tmp_path / "raw", tmp_path / "out", models[0], tta=False, brain_extraction="deepbet")
    side_car = tmp_path / "out" / "sub-01" / "anat" / "sub-01_space-orig_desc-brain_mask.json"
    assert side_car.with_suffix(".nii.gz").is_file()
    about = json.loads(side_car.read_text())
    assert about["Type"] == "Brain" and about["Sources"] == ["bids:raw:sub-01/anat/sub-01_T2w.nii.gz"]


def test_what_is_wrong_with_the_call(models, save_scan, tmp_path, monkeypatch):
    path = save_scan(tmp_path / "a.nii.gz")

    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(InputError, match=r"mednext-jax\[brain\]"):
        predict(path, tmp_path / "out", models[0], brain_extraction="deepbet")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1")
    with pytest.raises(InputError, match="expected: deepbet"):
        predict(path, tmp_path / "out", models[0], brain_extraction="scissors")
    with pytest.raises(InputError, match="both"):
        predict(path, tmp_path / "out", models[0], brain_extraction="deepbet", brain_masks=tmp_path / "masks")
    assert not (tmp_path / "out").exists() and named_tool(None) is None


@pytest.mark.slow
def test_deepbet_itself_finds_the_template_s_brain(tmp_path):
    pytest.importorskip("deepbet")
    nilearn = pytest.importorskip("nilearn.datasets")
    template = nilearn.load_mni152_template(resolution=2)
    image = nib.Nifti1Image(template.get_fdata().astype(np.float32), template.affine)
    nib.save(image, tmp_path / "a.nii.gz")
    mask, name = open_brain_extraction("deepbet")(Scan("a", (tmp_path / "a.nii.gz",), tmp_path, tmp_path))
    found, truth = np.asarray(mask.dataobj) > 0, nilearn.load_mni152_brain_mask(resolution=2).get_fdata() > 0
    assert name.startswith("deepbet ") and found.shape == read_scan(tmp_path / "a.nii.gz").shape
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.95
