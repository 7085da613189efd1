"""Which files make a scan: plain folders, nnU-Net's numbering, BIDS; and all problems told at once."""

from __future__ import annotations

import shutil

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.errors import InputError
from mednext_jax.inference.scans import find_scans, images_left_out

pytestmark = pytest.mark.core


def touch(folder, *names, shape=(4, 5, 6)):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), np.eye(4)), path)
    return folder


def listed(scans):
    return {scan.case: [p.name for p in scan.files] for scan in scans}


def all_sound(*arguments):
    scans, problems = find_scans(*arguments)
    assert not problems
    return scans


def test_one_file(tmp_path):
    folder = touch(tmp_path, "a.nii.gz", "b.nii.gz", "case_0000.nii.gz", "case_0001.nii.gz")
    (scan,) = all_sound(folder / "a.nii.gz", ["T2w"])
    assert (scan.case, scan.files) == ("a", (folder / "a.nii.gz",))
    assert (str(scan.mask), str(scan.probability)) == ("a_mask.nii.gz", "a_probability.nii.gz")
    both = all_sound(folder / "case_0000.nii.gz", ["T1w", "T2w"])
    assert listed(both) == {"case": ["case_0000.nii.gz", "case_0001.nii.gz"]}


def test_a_folder_of_single_channel_scans(tmp_path):
    touch(tmp_path, "b.nii", "a.nii.gz", "c_0000.nii.gz")
    (tmp_path / "notes.txt").write_text("not a scan")
    assert listed(all_sound(tmp_path, ["T2w"])) == {"a": ["a.nii.gz"], "b": ["b.nii"], "c": ["c_0000.nii.gz"]}


def test_names_that_end_in_four_digits_are_cases(tmp_path):
    names = ["002_S_0413", "002_S_1155", "subject_0001", "plain"]
    touch(tmp_path, *(f"{name}.nii.gz" for name in names))
    assert listed(all_sound(tmp_path, ["T1w"])) == {name: [f"{name}.nii.gz"] for name in names}
    assert listed(all_sound(tmp_path / "subject_0001.nii.gz", ["T1w"])) == {"subject_0001": ["subject_0001.nii.gz"]}


def test_a_channel_is_never_taken_for_a_case(tmp_path):
    touch(tmp_path, "x_0000.nii.gz", "y_0001.nii.gz")  # y lacks its first channel: its second is another contrast
    scans, problems = find_scans(tmp_path, ["T1w"])
    assert listed(scans) == {"x": ["x_0000.nii.gz"]}
    assert [(case, problem.found) for case, problem in problems] == [("y", "y_0001.nii.gz")]


def test_endings_in_any_letters(tmp_path):
    touch(tmp_path, "a.nii.gz")
    for name in ("B.NII.GZ", "c.nii.GZ"):
        shutil.copy(tmp_path / "a.nii.gz", tmp_path / name)
    (tmp_path / "._a.nii.gz").write_bytes(b"Mac OS X")
    found = {"a": ["a.nii.gz"], "B": ["B.NII.GZ"], "c": ["c.nii.GZ"]}
    assert listed(all_sound(tmp_path, ["T2w"])) == found
    assert images_left_out(tmp_path) == []


def test_images_of_other_formats_are_named(tmp_path):
    touch(tmp_path, "a.nii.gz")
    for name in ("d.mnc", "e.img", "e.hdr", "f.NHDR", "table.csv", "._g.mgz"):
        (tmp_path / name).write_bytes(b"x")
    (warning,) = images_left_out(tmp_path)
    assert warning.severity == "W" and warning.found == "d.mnc, e.hdr, e.img, f.NHDR" and "4 images" in warning.what
    (tmp_path / "a.nii.gz").unlink()
    with pytest.raises(InputError, match=r"no scans[\s\S]*d\.mnc[\s\S]*mri_convert"):
        find_scans(tmp_path, ["T2w"])
    touch(tmp_path / "bids", "sub-1/anat/sub-1_T2w.nii.gz")
    (tmp_path / "bids/sub-1/anat/sub-1_T1w.mgz").write_bytes(b"x")
    assert [warning.found for warning in images_left_out(tmp_path / "bids")] == ["sub-1_T1w.mgz"]


def test_two_channels(tmp_path):
    touch(tmp_path, "x_0001.nii.gz", "x_0000.nii.gz", "y_0000.nii.gz", "y_0001.nii.gz")
    found = all_sound(tmp_path, ["T1w", "FLAIR"])
    assert listed(found) == {c: [f"{c}_0000.nii.gz", f"{c}_0001.nii.gz"] for c in "xy"}


def test_channels_that_do_not_fit_are_all_named(tmp_path):
    touch(tmp_path, "x_0000.nii.gz", "y_0000.nii.gz", "y_0001.nii.gz", "y_0002.nii.gz", "z.nii.gz")
    with pytest.raises(InputError) as error:
        find_scans(tmp_path, ["T1w", "FLAIR"])
    assert len(error.value.problems) == 3 and "x_0001 (FLAIR)" in str(error.value)
    scans, problems = find_scans(tmp_path, ["T1w"])
    assert [scan.case for scan in scans] == ["x", "z"]
    assert [case for case, _ in problems] == ["y"] and "y_0001" in problems[0][1].found


def test_the_same_case_twice(tmp_path):
    touch(tmp_path, "x.nii", "x.nii.gz")
    with pytest.raises(InputError, match="Two files"):
        find_scans(tmp_path, ["T1w"])


def bids(root):
    names = ["sub-01/anat/sub-01_T2w", "sub-02/ses-1/anat/sub-02_ses-1_run-2_T2w", "sub-02/ses-1/anat/sub-02_ses-1_T1w"]
    return touch(root, *(f"{name}.nii.gz" for name in names))


@pytest.mark.parametrize("channel", ["T2w", "t2w", "T2"])
def test_bids(tmp_path, channel):
    first, second = all_sound(bids(tmp_path), [channel])
    assert first.case == "sub-01" and second.case == "sub-02_ses-1_run-2"
    assert second.bids_sources == ("sub-02/ses-1/anat/sub-02_ses-1_run-2_T2w.nii.gz",)
    stem = "sub-02/ses-1/anat/sub-02_ses-1_run-2_space-orig_label-PVS"
    assert second.mask.as_posix() == f"{stem}_mask.nii.gz"
    assert second.probability.as_posix() == f"{stem}_probseg.nii.gz"


def test_bids_channels(tmp_path):
    touch(tmp_path, "sub-1/anat/sub-1_T1w.nii.gz", "sub-1/anat/sub-1_FLAIR.nii.gz")
    (scan,) = all_sound(tmp_path, ["T1", "FLAIR"])
    assert [p.name for p in scan.files] == ["sub-1_T1w.nii.gz", "sub-1_FLAIR.nii.gz"]
    touch(tmp_path, "sub-2/anat/sub-2_T1w.nii.gz")
    scans, problems = find_scans(tmp_path, ["T1", "FLAIR"])
    assert [scan.case for scan in scans] == ["sub-1"]
    assert [(case, problem.found) for case, problem in problems] == [("sub-2", "sub-2_T1w.nii.gz")]


def test_a_suffix_chooses_the_scans_of_a_bids_data_set(tmp_path):
    (scan,) = all_sound(bids(tmp_path), ["MRI"], "T1w")
    assert scan.files[0].name == "sub-02_ses-1_T1w.nii.gz"
    assert [scan.case for scan in all_sound(tmp_path, ["T1w"], "T2w")] == ["sub-01", "sub-02_ses-1_run-2"]
    touch(tmp_path, "sub-01/anat/sub-01_PDw.nii.gz")
    (two,) = find_scans(tmp_path, ["a", "b"], "PDw,T2w")[0]
    assert [p.name for p in two.files] == ["sub-01_PDw.nii.gz", "sub-01_T2w.nii.gz"]
    with pytest.raises(InputError, match="not as many"):
        find_scans(tmp_path, ["T1w"], "T1w,T2w")
    with pytest.raises(InputError, match="only PDw, T1w, T2w"):
        find_scans(tmp_path, ["T1w"], "FLAIR")
    plain = touch(tmp_path / "plain", "a.nii.gz")
    with pytest.raises(InputError, match="leave --suffix out"):
        find_scans(plain, ["T1w"], "T1w")


@pytest.mark.parametrize("suffix", ["", "_T1w", "T1w,,T2w", "T1w,T1w"])
def test_a_suffix_that_names_no_contrast(tmp_path, suffix):
    with pytest.raises(InputError, match="such as T2w, or T1w,FLAIR"):
        find_scans(bids(tmp_path), ["a", "b"], suffix)


def test_two_channels_are_never_the_same_scan(tmp_path):
    touch(tmp_path, "sub-1/anat/sub-1_T1w.nii.gz", "sub-1/anat/sub-1_T2w.nii.gz")
    assert len(all_sound(tmp_path, ["a", "b"], "T1w, T2w")) == 1
    with pytest.raises(InputError, match=r"one and the same scan[\s\S]*T2: T2w, T2w: T2w"):
        find_scans(tmp_path, ["T2", "T2w"])


def test_names_of_subjects_that_bids_does_not_have_are_not_left_out(tmp_path):
    touch(tmp_path, *(f"{name}/anat/{name}_T2w.nii.gz" for name in ("sub-é", "sub-HC-01", "sub-a b")))
    assert sorted(listed(all_sound(tmp_path, ["T2w"]))) == ["sub-HC-01", "sub-a b", "sub-é"]


def test_scans_in_folders_below_are_said(tmp_path):
    touch(tmp_path, "bids/sub-1/ses-1/anat/sub-1_ses-1_T2w.nii.gz")
    with pytest.raises(InputError, match=r"such as ses-1/anat/sub-1_ses-1_T2w\.nii\.gz[\s\S]*whole of a BIDS data set"):
        find_scans(tmp_path / "bids" / "sub-1", ["T2w"])


def test_a_folder_of_derivatives_is_not_asked_for_masks(tmp_path):
    touch(tmp_path, "sub-1/anat/sub-1_desc-pvs_mask.nii.gz")
    with pytest.raises(InputError, match="name the data set itself"):
        find_scans(tmp_path, ["T2w"])


def test_links_to_subject_folders_are_followed(tmp_path):
    bids(tmp_path / "store")
    (tmp_path / "set").mkdir()
    for subject in ("sub-01", "sub-02"):
        (tmp_path / "set" / subject).symlink_to(tmp_path / "store" / subject)
    assert [scan.case for scan in all_sound(tmp_path / "set", ["T2w"])] == ["sub-01", "sub-02_ses-1_run-2"]


def test_bids_without_the_models_contrast(tmp_path):
    with pytest.raises(InputError, match="FLAIR"):
        find_scans(bids(tmp_path), ["FLAIR"])
    with pytest.raises(InputError, match=r"several contrasts[\s\S]*--suffix one of T1w, T2w"):
        find_scans(tmp_path, ["MRI"])  # the name means no contrast, and two are there


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        find_scans(tmp_path / "absent", ["T1w"])
    with pytest.raises(InputError, match="no scans"):
        find_scans(tmp_path, ["T1w"])


def test_a_device_is_not_a_missing_input():
    with pytest.raises(InputError, match="a device, a socket or a pipe"):
        find_scans("/dev/null", ["T1w"])


def test_headers_are_read_before_anything_is_computed(tmp_path):
    touch(tmp_path, "good.nii.gz")
    touch(tmp_path, "4d.nii.gz", shape=(4, 5, 6, 2))
    (tmp_path / "text.nii.gz").write_text("not a scan")
    (tmp_path / "empty.nii.gz").write_bytes(b"")
    (tmp_path / "gone.nii.gz").symlink_to(tmp_path / "nowhere")
    scans, problems = find_scans(tmp_path, ["T1w"])
    assert [scan.case for scan in scans] == ["good"]
    assert [case for case, _ in problems] == ["4d", "empty", "gone", "text"]
    assert problems[0][1].found == "4 axes: 4 x 5 x 6 x 2"
    (tmp_path / "good.nii.gz").unlink()
    with pytest.raises(InputError) as error:
        find_scans(tmp_path, ["T1w"])
    assert len(error.value.problems) == 4
