"""Which files are masks, of which case, and what lies beside them."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.errors import InputError
from mednext_jax.quantify.mask_files import files_by_case, find_mask_files, read_probability
from tests.measure.brain import AFFINE

pytestmark = pytest.mark.core


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_masks_beside_other_files(tmp_path):
    touch(tmp_path, "a_mask.nii.gz", "a_probability.nii.gz", "a_clusters.nii.gz", "b_mask.nii", "a_brain_mask.nii.gz")
    touch(tmp_path, "deep/c_mask.nii.gz", "deep/c_probability.nii.gz", "volumes.tsv", "d.mgz")
    found, warnings = find_mask_files(tmp_path)
    assert [(f.case, f.probability and f.probability.name, str(f.folder)) for f in found] == [
        ("a", "a_probability.nii.gz", "."),
        ("b", None, "."),
        ("c", "c_probability.nii.gz", "deep"),
    ]
    assert "d.mgz" in str(warnings[0])


def test_what_predict_writes_for_a_bids_data_set(tmp_path):
    start = "sub-01/anat/sub-01_space-orig"
    touch(tmp_path, *(f"{start}_label-PVS_{k}.nii.gz" for k in ("mask", "probseg")), f"{start}_seg-PVS_dseg.nii.gz")
    ((one,), _) = find_mask_files(tmp_path)
    assert one.case == "sub-01" and one.is_bids and one.probability.name.endswith("_probseg.nii.gz")


def test_plain_names_where_no_name_says_mask(tmp_path):
    touch(tmp_path, "a.nii.gz", "a_probability.nii.gz", "b.nii.gz")
    assert [f.case for f in find_mask_files(tmp_path)[0]] == ["a", "b"]
    assert find_mask_files(tmp_path / "a.nii.gz")[0][0].probability.name == "a_probability.nii.gz"


def test_two_masks_of_a_case_and_none(tmp_path):
    touch(tmp_path / "two", "a_mask.nii", "x/a_mask.nii.gz")
    with pytest.raises(InputError, match="Two masks"):
        find_mask_files(tmp_path / "two")
    touch(tmp_path / "none", "a.mgz")
    with pytest.raises(InputError, match=r"no masks[\s\S]*a\.mgz"):
        find_mask_files(tmp_path / "none")


def test_files_of_cases(tmp_path):
    touch(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "sub-01_T2w.nii.gz", "deep/b.nii.gz", "b_T1w.nii.gz")
    found = files_by_case(tmp_path, ["a", "sub-01", "b", "c"], "scans")
    assert {case: path.name for case, path in found.items()} == {
        "a": "a_0000.nii.gz",
        "sub-01": "sub-01_T2w.nii.gz",
        "b": "b.nii.gz",
    }
    assert files_by_case(tmp_path / "b_T1w.nii.gz", ["anything"], "scans")["anything"].name == "b_T1w.nii.gz"
    with pytest.raises(InputError, match="scans are missing"):
        files_by_case(tmp_path / "nowhere", ["a"], "scans")


def test_a_probability_that_is_0_everywhere_is_one(save):
    mask = nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), AFFINE)
    path = save("p.nii.gz", np.zeros((4, 4, 4), np.float32))
    assert not read_probability(path, mask).any()
    with pytest.raises(InputError, match="no probabilities"):
        read_probability(save("q.nii.gz", np.linspace(0, 9, 64).reshape(4, 4, 4).astype(np.float32)), mask)


def test_scans_of_other_formats_belong_to_their_masks(tmp_path):
    touch(tmp_path, "a.mgz", "b_0000.nii.gz", "c_T2w.nrrd")
    found = files_by_case(tmp_path, ["a", "b", "c", "d"], "scans")
    assert {case: path.name for case, path in found.items()} == {"a": "a.mgz", "b": "b_0000.nii.gz", "c": "c_T2w.nrrd"}
