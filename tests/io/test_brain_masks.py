"""Which mask is a case's: names, links, doubles, and masks that are none."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.errors import InputError
from mednext_jax.io.brain_masks import BrainMasks, brain_problems, is_brain_mask

pytestmark = pytest.mark.core


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def test_the_name_that_says_most_is_taken(tmp_path):
    touch(tmp_path, "a.nii.gz", "a_mask.nii.gz", "b/b.NII", "c_mask.nii", "c_desc-brain_mask.nii", "._d.nii", "d.mgz")
    masks = BrainMasks.open(tmp_path)
    names = {case: path and path.name for case in "abcd" for path in [masks.path(case)]}
    assert names == {"a": "a_mask.nii.gz", "b": "b.NII", "c": "c_desc-brain_mask.nii", "d": None}


def test_masks_behind_links(tmp_path):
    touch(tmp_path / "store", "sub-1/anat/sub-1_desc-brain_mask.nii.gz")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "sub-1").symlink_to(tmp_path / "store" / "sub-1")
    assert BrainMasks.open(tmp_path / "masks").path("sub-1") is not None


def test_a_missing_and_a_double_mask_are_told_for_their_cases(tmp_path):
    touch(tmp_path, "a_mask.nii.gz", "x/b_mask.nii.gz", "y/b_mask.nii.gz")
    found, problems = BrainMasks.open(tmp_path).paths(["a", "b", "c"])
    assert list(found) == ["a"]
    assert [(case, problem.what) for case, problem in problems] == [
        ("b", "A case has several brain masks."),
        ("c", "A case has no brain mask."),
    ]
    assert problems[0][1].found == "x/b_mask.nii.gz, y/b_mask.nii.gz" and "c_mask.nii.gz" in problems[1][1].expected
    with pytest.raises(InputError, match="folder of brain masks is missing"):
        BrainMasks.open(tmp_path / "nowhere")


def test_a_mask_of_many_values_is_said_to_be_one():
    def image(values):
        return nib.Nifti1Image(np.asarray(values, np.int16).reshape(2, 2, 2), np.eye(4))

    scan = image(range(8))
    (warning,) = brain_problems(image([0, 0, 12, 90, 180, 255, 255, 3]), scan, "mask", "scan")
    assert warning.severity == "W" and warning.found == "5 values from 3 to 255"
    assert brain_problems(image([0, 0, 0, 0, 255, 255, 255, 255]), scan, "mask", "scan") == []


@pytest.mark.parametrize(
    ("name", "brain"),
    [
        ("sub-1_desc-brain_mask.nii.gz", True),
        ("sub-1_label-Head_dseg.nii", True),
        ("sub-1_brain_mask.nii.gz", True),
        ("sub-1_label-pvs_mask.nii.gz", False),
        ("head_01.nii.gz", False),
        ("brain_mask_pvs.nii.gz", False),
    ],
)
def test_names_of_brain_masks(name, brain):
    assert is_brain_mask(Path(name)) is brain
