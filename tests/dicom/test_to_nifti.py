"""A series as NIfTI: each voxel is where DICOM puts it, and no text of the series is kept."""

from __future__ import annotations

import sys

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.dicom.series import choose_series
from mednext_jax.dicom.to_nifti import write_nifti
from mednext_jax.errors import InputError

pytestmark = pytest.mark.core


@pytest.mark.parametrize("multi_frame", [False, True], ids=["frames", "multi-frame"])
@pytest.mark.parametrize("plane", ["axial", "sagittal", "coronal", "oblique"])
def test_each_voxel_is_where_dicom_puts_it(make_series, tmp_path, plane, multi_frame):
    pytest.importorskip("dcm2niix")
    made = make_series(plane=plane, multi_frame=multi_frame)
    write_nifti(choose_series(made.folder), tmp_path / "scan.nii")
    image = nib.load(tmp_path / "scan.nii")
    voxels = np.asarray(image.dataobj)
    # The affine of DICOM's own indices (images, rows, columns), which the test computes, onto those of the file.
    onto = np.linalg.inv(image.affine) @ made.affine
    np.testing.assert_allclose(onto, np.rint(onto), atol=2e-3)  # the file's affine is float32
    index = np.rint(nib.affines.apply_affine(onto, np.argwhere(np.ones_like(made.voxels)))).astype(int)
    assert (index >= 0).all() and (index.max(0) + 1 == voxels.shape).all()
    np.testing.assert_array_equal(voxels[tuple(index.T)], made.voxels.ravel())
    assert b"secret" not in (tmp_path / "scan.nii").read_bytes() and b"Doe" not in (tmp_path / "scan.nii").read_bytes()


def test_several_images_of_one_series_are_refused(make_series, tmp_path):
    pytest.importorskip("dcm2niix")
    pydicom = pytest.importorskip("pydicom")
    made = make_series()
    for number, path in enumerate(sorted(made.folder.iterdir())):
        data = pydicom.dcmread(path)
        data.EchoTime, data.EchoNumbers = (100, 1) if number % 2 else (30, 2)
        data.save_as(path)
    with pytest.raises(InputError, match="several images"):
        write_nifti(choose_series(made.folder), tmp_path / "scan.nii")
    assert not (tmp_path / "scan.nii").exists()


def test_what_dcm2niix_does_not_read(make_series, tmp_path):
    pytest.importorskip("dcm2niix")
    made = make_series(multi_frame=True)
    (path,) = made.folder.iterdir()
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(InputError, match="no image"):
        write_nifti(choose_series(made.folder), tmp_path / "scan.nii")


def test_the_extra_is_named(make_series, tmp_path, monkeypatch):
    series = choose_series(make_series().folder)
    monkeypatch.setitem(sys.modules, "dcm2niix", None)
    with pytest.raises(InputError, match=r"mednext-jax\[dicom\]"):
        write_nifti(series, tmp_path / "scan.nii")
