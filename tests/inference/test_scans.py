"""Which files make a scan: plain folders, nnU-Net's numbering, BIDS; and all problems told at once."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.errors import InputError
from mednext_jax.inference.scans import find_scans

pytestmark = pytest.mark.core


def touch(folder, *names, shape=(4, 5, 6)):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), np.eye(4)), path)
    return folder


def listed(scans):
    return {scan.case: [p.name for p in scan.files] for scan in scans}


def test_one_file(tmp_path):
    folder = touch(tmp_path, "a.nii.gz", "b.nii.gz", "case_0000.nii.gz", "case_0001.nii.gz")
    (scan,) = find_scans(folder / "a.nii.gz", ["T2w"])
    assert (scan.case, scan.files) == ("a", (folder / "a.nii.gz",))
    assert (str(scan.mask), str(scan.probability)) == ("a_mask.nii.gz", "a_probability.nii.gz")
    both = find_scans(folder / "case_0000.nii.gz", ["T1w", "T2w"])
    assert listed(both) == {"case": ["case_0000.nii.gz", "case_0001.nii.gz"]}


def test_a_folder_of_single_channel_scans(tmp_path):
    touch(tmp_path, "b.nii", "a.nii.gz", "c_0000.nii.gz")
    (tmp_path / "notes.txt").write_text("not a scan")
    assert listed(find_scans(tmp_path, ["T2w"])) == {"a": ["a.nii.gz"], "b": ["b.nii"], "c": ["c_0000.nii.gz"]}


def test_two_channels(tmp_path):
    touch(tmp_path, "x_0001.nii.gz", "x_0000.nii.gz", "y_0000.nii.gz", "y_0001.nii.gz")
    found = find_scans(tmp_path, ["T1w", "FLAIR"])
    assert listed(found) == {c: [f"{c}_0000.nii.gz", f"{c}_0001.nii.gz"] for c in "xy"}


def test_channels_that_do_not_fit_are_all_named(tmp_path):
    touch(tmp_path, "x_0000.nii.gz", "y_0000.nii.gz", "y_0001.nii.gz", "y_0002.nii.gz", "z.nii.gz")
    with pytest.raises(InputError) as error:
        find_scans(tmp_path, ["T1w", "FLAIR"])
    assert len(error.value.problems) == 3 and "x_0001 (FLAIR)" in str(error.value)
    with pytest.raises(InputError, match="y_0001"):
        find_scans(tmp_path, ["T1w"])


def test_the_same_case_twice(tmp_path):
    touch(tmp_path, "x.nii", "x.nii.gz")
    with pytest.raises(InputError, match="Two files"):
        find_scans(tmp_path, ["T1w"])


def bids(root):
    names = ["sub-01/anat/sub-01_T2w", "sub-02/ses-1/anat/sub-02_ses-1_run-2_T2w", "sub-02/ses-1/anat/sub-02_ses-1_T1w"]
    return touch(root, *(f"{name}.nii.gz" for name in names))


@pytest.mark.parametrize("channel", ["T2w", "t2w", "T2"])
def test_bids(tmp_path, channel):
    first, second = find_scans(bids(tmp_path), [channel])
    assert first.case == "sub-01" and second.case == "sub-02_ses-1_run-2"
    assert second.bids_sources == ("sub-02/ses-1/anat/sub-02_ses-1_run-2_T2w.nii.gz",)
    stem = "sub-02/ses-1/anat/sub-02_ses-1_run-2_space-orig_label-PVS"
    assert second.mask.as_posix() == f"{stem}_mask.nii.gz"
    assert second.probability.as_posix() == f"{stem}_probseg.nii.gz"


def test_bids_channels(tmp_path):
    touch(tmp_path, "sub-1/anat/sub-1_T1w.nii.gz", "sub-1/anat/sub-1_FLAIR.nii.gz")
    (scan,) = find_scans(tmp_path, ["T1", "FLAIR"])
    assert [p.name for p in scan.files] == ["sub-1_T1w.nii.gz", "sub-1_FLAIR.nii.gz"]
    touch(tmp_path, "sub-2/anat/sub-2_T1w.nii.gz")
    with pytest.raises(InputError, match="sub-2"):
        find_scans(tmp_path, ["T1", "FLAIR"])


def test_bids_without_the_models_contrast(tmp_path):
    with pytest.raises(InputError, match="FLAIR"):
        find_scans(bids(tmp_path), ["FLAIR"])
    with pytest.raises(InputError, match="several contrasts"):
        find_scans(tmp_path, ["MRI"])  # the name means no contrast, and two are there


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        find_scans(tmp_path / "absent", ["T1w"])
    with pytest.raises(InputError, match="no scans"):
        find_scans(tmp_path, ["T1w"])


def test_headers_are_read_before_anything_is_computed(tmp_path):
    touch(tmp_path, "good.nii.gz")
    touch(tmp_path, "4d.nii.gz", shape=(4, 5, 6, 2))
    (tmp_path / "text.nii.gz").write_text("not a scan")
    with pytest.raises(InputError) as error:
        find_scans(tmp_path, ["T1w"])
    assert len(error.value.problems) == 2
    assert "4 x 5 x 6 x 2" in str(error.value) and "text.nii.gz" in str(error.value)
