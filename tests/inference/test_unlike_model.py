"""Warnings that name the contrast and the channels of scan and model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.inference.scans import Scan, find_scans
from mednext_jax.inference.unlike_model import unlike_model
from mednext_jax.weights.recipe import Recipe

pytestmark = pytest.mark.core

T2W = Recipe(channel_names=("T2w",))


def scan(path: Path, description="") -> Scan:
    image = nib.Nifti1Image(np.ones((4, 4, 4), np.int16), np.eye(4))
    image.header["descrip"] = description.encode()
    nib.save(image, path)
    return Scan(path.stem, (path,), Path("m"), Path("p"))


def test_a_name_of_another_contrast_is_named_with_the_model_s(tmp_path):
    scans = [scan(tmp_path / name) for name in ("sub-1_T1w.nii.gz", "sub-2_T2w.nii.gz", "sub-3.nii.gz")]
    (problem,) = unlike_model(scans, T2W)
    assert problem.severity == "W" and problem.file == str(tmp_path / "sub-1_T1w.nii.gz")
    assert problem.expected == "T2w" and problem.found.startswith("T1w")


def test_an_echo_time_of_another_contrast_is_named(tmp_path):
    scans = [scan(tmp_path / "a.nii.gz", "TE=2.98;Time=1"), scan(tmp_path / "b.nii.gz", "TE=565;Time=1")]
    (problem,) = unlike_model(scans, T2W)
    assert problem.file.endswith("a.nii.gz") and "2.98 ms" in problem.found and "at least 50" in problem.found
    (problem,) = unlike_model(scans, Recipe(channel_names=("T1",)))
    assert problem.file.endswith("b.nii.gz") and "565 ms" in problem.found


def test_a_model_that_names_no_contrast_contradicts_nothing(tmp_path):
    scans = [scan(tmp_path / "sub-1_T1w.nii.gz", "TE=565")]
    assert unlike_model(scans, Recipe(channel_names=("MRI",))) == []


def test_each_channel_has_its_contrast(tmp_path):
    one, other = (scan(tmp_path / f"sub-1_{name}.nii.gz").files[0] for name in ("T1w", "FLAIR"))
    both = Recipe(channel_names=("T1w", "FLAIR"), normalisation=("zscore",) * 2)
    assert unlike_model([Scan("sub-1", (one, other), one, one)], both) == []
    assert len(unlike_model([Scan("sub-1", (other, one), one, one)], both)) == 2


def test_a_channel_that_the_model_does_not_see_is_named(tmp_path):
    for number in range(2):
        scan(tmp_path / f"case_{number:04d}.nii.gz")
    scans, _ = find_scans(tmp_path / "case_0000.nii.gz", T2W.channel_names)
    (problem,) = unlike_model(scans, T2W)
    assert "case_0001.nii.gz" in problem.found and problem.expected == "1: T2w"
    (tmp_path / "case_0001.nii.gz").unlink()
    assert unlike_model(scans, T2W) == []


KNOWS = Recipe(
    channel_names=("MRI",),
    threshold=0.4,
    thresholds=tuple({"contrast": c, "largest_voxel": 2.0, "threshold": 0.3} for c in ("T1w", "FLAIR")),
)


def test_a_scan_in_no_contrast_that_the_model_knows_is_named(tmp_path):
    names = ("a_T1w.nii.gz", "b_flair.nii.gz", "c_T2w.nii.gz", "d_PD.nii.gz", "e.nii.gz")
    scans = [scan(tmp_path / name) for name in names]
    t2w, pd, unknown = unlike_model(scans, KNOWS)
    assert "no contrast that the model knows" in t2w.what == pd.what
    assert (t2w.expected, t2w.found, pd.found) == ("T1w, FLAIR", "T2w", "PD")
    assert t2w.hint == pd.hint == "its threshold is the model's general one, 0.4"
    assert "general threshold, 0.4" in unknown.what and unknown.file.endswith("e.nii.gz")
    # a threshold of the user's leaves nothing to say of the scan without a name, and of the others' thresholds
    assert unlike_model(scans, KNOWS, ()) == [dataclasses.replace(one, hint=None) for one in (t2w, pd)]


def test_a_table_for_any_contrast_knows_them_all(tmp_path):
    row = {"contrast": None, "largest_voxel": 2.0, "threshold": 0.3}
    recipe = dataclasses.replace(KNOWS, thresholds=(*KNOWS.thresholds, row))
    assert unlike_model([scan(tmp_path / name) for name in ("c_T2w.nii.gz", "e.nii.gz")], recipe) == []


def test_a_file_that_cannot_be_read_is_left_to_its_reader(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"")
    assert unlike_model([Scan("a", (tmp_path / "a.nii.gz",), tmp_path, tmp_path)], T2W) == []
