"""Which series a folder holds, and which is meant."""

from __future__ import annotations

import sys

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.dicom.series import choose_series, find_series, is_dicom
from mednext_jax.errors import InputError

pytestmark = pytest.mark.core


def test_two_series_are_listed_and_one_is_chosen(make_series):
    first = make_series("d", number=3, description="t2_space")
    second = make_series("d", number=11, description="t1\x1b[31m", multi_frame=True)
    (first.folder / "notes.txt").write_text("no DICOM")
    (first.folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    assert [(one.number, one.uid) for one in find_series(first.folder)] == [("3", first.uid), ("11", second.uid)]
    with pytest.raises(InputError, match="several DICOM series") as error:
        choose_series(first.folder)
    said = str(error.value)
    assert (
        "series 3 (t2_space, 20 x 26 x 22), series 11 (t1" in said and "--series NUMBER" in said and "\x1b" not in said
    )
    assert choose_series(first.folder, "11").uid == second.uid
    assert choose_series(first.folder, first.uid).number == "3"
    with pytest.raises(InputError, match=r"no such DICOM series[\s\S]*series 3 "):
        choose_series(first.folder, "4")


def test_two_series_of_one_number_are_told_apart_by_their_uid(make_series):
    made = [make_series("d", multi_frame=True, number=n) for n in (3, 4)]
    pydicom = pytest.importorskip("pydicom")
    data = pydicom.dcmread(made[1].folder / "4.dcm")
    data.SeriesNumber = 3
    data.save_as(made[1].folder / "4.dcm")
    with pytest.raises(InputError, match=f"{made[1].uid}[\\s\\S]*--series UID|{made[0].uid}[\\s\\S]*--series UID"):
        choose_series(made[0].folder, "3")


def test_what_is_dicom(make_series, tmp_path):
    made = make_series("d", multi_frame=True)
    assert is_dicom(made.folder) and is_dicom(made.folder / "3.dcm")
    (tmp_path / "above" / "a").mkdir(parents=True)
    assert not is_dicom(tmp_path / "above") and not is_dicom(tmp_path / "nowhere")
    (made.folder / "3.dcm").rename(tmp_path / "above" / "a" / "x")
    assert is_dicom(tmp_path / "above")  # files without endings, in folders
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), tmp_path / "above" / "scan.nii.gz")
    assert not is_dicom(tmp_path / "above") and not is_dicom(tmp_path / "above" / "scan.nii.gz")


def test_other_objects_and_damaged_files(make_series, tmp_path):
    pydicom = pytest.importorskip("pydicom")
    made = make_series("d", multi_frame=True)
    path = made.folder / "3.dcm"
    data = pydicom.dcmread(path)
    data.Modality = "SEG"
    data.save_as(path)
    with pytest.raises(InputError, match="no series of images"):
        find_series(made.folder)
    path.write_bytes(bytes(128) + b"DICM" + b"\xff" * 40)
    with pytest.raises(InputError, match="damaged|no series of images"):
        find_series(made.folder)


def test_without_pydicom_the_extra_is_named(make_series, monkeypatch):
    made = make_series("d", multi_frame=True)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(InputError, match=r"mednext-jax\[dicom\]"):
        find_series(made.folder)
