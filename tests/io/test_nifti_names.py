"""Which files of a folder are NIfTI files, links and loops, and what is said of the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from mednext_jax.io.nifti_names import case_of, files_below, is_nifti_name, is_scan_name, left_out, stem
from mednext_jax.io.scan_formats import SCAN_ENDINGS

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("name", "is_one", "without"),
    [
        ("a.nii.gz", True, "a"),
        ("B.NII.GZ", True, "B"),
        ("c.Nii", True, "c"),
        ("sub.01.nii", True, "sub.01"),
        ("._a.nii.gz", False, "._a"),
        ("a.mgz", False, "a"),
        ("a.mnc", False, "a.mnc"),
        ("nii.gz", False, "nii.gz"),
    ],
)
def test_names(name, is_one, without):
    assert is_nifti_name(Path("folder") / name) is is_one and stem(Path(name)) == without


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("sub-1_space-orig_label-PVS_mask.nii.gz", "sub-1"),
        ("sub-1_space-orig_label-PVS_probseg.nii.gz", "sub-1"),
        ("sub-1_T2w_space-orig_label-PVS_probseg.nii.gz", "sub-1_T2w"),
        ("sub-01_ses-2_run-1_space-orig_label-PVS_mask.nii.gz", "sub-01_ses-2_run-1"),
        ("sub-01_seg-PVS_desc-manual_dseg.nii.gz", "sub-01"),
        ("sub-1_mask.nii", "sub-1"),
        ("sub-1_probability.nii.gz", "sub-1"),
        ("sub-1.NII.GZ", "sub-1"),
        ("mask_of_sub-01.nii.gz", "mask_of_sub-01"),
        ("002_S_0413_mask.nii.gz", "002_S_0413"),
    ],
)
def test_the_case_of_a_map(name, case):
    assert case_of(Path("folder") / name) == case


def test_links_are_followed_and_loops_are_not(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x.nii").touch()
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "linked").symlink_to(tmp_path / "a" / "b")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "y.nii").touch()
    (tmp_path / "gone.nii").symlink_to(tmp_path / "nowhere")
    found = [path.relative_to(tmp_path).as_posix() for path in files_below(tmp_path)]
    assert found == ["a/b/x.nii", "gone.nii", "linked/x.nii"]


def test_many_images_of_other_formats_are_one_warning(tmp_path):
    files = [tmp_path / f"{i}.IMG" for i in range(7)]
    (warning,) = left_out([*files, tmp_path / "a.nii", tmp_path / "._b.mgz", tmp_path / "c.json"], tmp_path)
    assert warning.what == "7 images of another format are left out."
    assert warning.found == "0.IMG, 1.IMG, 2.IMG, 3.IMG, 4.IMG and 2 more"
    assert left_out([tmp_path / "a.nii.gz"], tmp_path) == []


def test_other_formats_of_scans_are_left_out_only_where_they_are_not_read(tmp_path):
    files = [tmp_path / name for name in ("a.MGZ", "b.nrrd", "c.mha", "d.mgh", "e.mhd", "f.nhdr")]
    assert [is_scan_name(path) for path in files] == [True] * 4 + [False] * 2
    assert left_out(files, tmp_path)[0].found.startswith("a.MGZ, b.nrrd")
    assert left_out(files, tmp_path, SCAN_ENDINGS)[0].found == "e.mhd, f.nhdr"
