"""Which file is of which case: other tools' names, patterns, probability maps beside masks."""

from __future__ import annotations

import pytest

from mednext_jax.errors import InputError
from mednext_jax.evaluate.find_masks import find_masks

pytestmark = pytest.mark.core


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def names(found, folder):
    return {case: path.relative_to(folder).as_posix() for case, path in found.items()}


def test_masks_or_probability_maps_of_one_folder(tmp_path):
    touch(tmp_path, "a_mask.nii.gz", "a_probability.nii.gz", "b_mask.nii.gz", "b_probability.nii.gz")
    assert names(find_masks(tmp_path), tmp_path) == {"a": "a_mask.nii.gz", "b": "b_mask.nii.gz"}
    found = names(find_masks(tmp_path, probabilities=True), tmp_path)
    assert found == {"a": "a_probability.nii.gz", "b": "b_probability.nii.gz"}


def test_a_folder_of_one_kind_is_taken_whatever_is_asked_for(tmp_path):
    touch(tmp_path / "maps", "a_probseg.nii.gz")
    touch(tmp_path / "masks", "a.nii.gz", "b_mask.nii")
    assert names(find_masks(tmp_path / "maps"), tmp_path / "maps") == {"a": "a_probseg.nii.gz"}
    assert list(find_masks(tmp_path / "masks", probabilities=True)) == ["b"]
    touch(tmp_path / "both", "a.nii.gz", "a_probability.nii.gz")
    assert names(find_masks(tmp_path / "both"), tmp_path / "both") == {"a": "a.nii.gz"}


def test_a_bids_derivative(tmp_path):
    anat = "sub-1/ses-2/anat/sub-1_ses-2_space-orig_label-PVS"
    touch(tmp_path, f"{anat}_mask.nii.gz", f"{anat}_probseg.nii.gz")
    assert names(find_masks(tmp_path), tmp_path) == {"sub-1_ses-2": f"{anat}_mask.nii.gz"}
    assert names(find_masks(tmp_path, probabilities=True), tmp_path) == {"sub-1_ses-2": f"{anat}_probseg.nii.gz"}


def test_a_pattern_finds_tools_that_name_the_case_in_a_folder(tmp_path):
    root = tmp_path / "segmentation"
    touch(
        root, *(f"sub-{i}/{name}.nii.gz" for i in (1, 2) for name in ("pvs_map", "labelled_pvs", "Brain_Seg_for_PVS"))
    )
    touch(root, "sub-3/notes.txt", "sub-4/deeper/pvs_map.nii.gz")
    found = find_masks(f"{root}/{{case}}/pvs_map.nii.gz")
    assert names(found, root) == {"sub-1": "sub-1/pvs_map.nii.gz", "sub-2": "sub-2/pvs_map.nii.gz"}
    touch(root, "sub-7/sub-7_out.nii.gz", "sub-8/sub-9_out.nii.gz")
    assert list(find_masks(str(root / "{case}" / "{case}_out.nii.gz"))) == ["sub-7"]
    assert list(find_masks(root / "{case}" / "labelled_pvs.nii.gz")) == ["sub-1", "sub-2"]


def test_several_files_of_one_case_hint_at_a_pattern(tmp_path):
    touch(tmp_path, "sub-1/pvs_map.nii.gz", "sub-2/pvs_map.nii.gz")
    with pytest.raises(InputError, match=r"FOLDER/\{case\}/pvs_map.nii.gz"):
        find_masks(tmp_path)


@pytest.mark.parametrize("pattern", ["{case}.nii.gz", "absent/{case}/map.nii.gz", "(.*){case}.nii.gz"])
def test_a_pattern_that_nothing_fits_is_refused(tmp_path, pattern):
    touch(tmp_path, "a/a.nii.gz")
    with pytest.raises(InputError, match="fits the pattern"):
        find_masks(f"{tmp_path}/{pattern}")
