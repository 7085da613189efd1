"""A data set's problems, all of them at once, and the oddities that are only said."""

from __future__ import annotations

import shutil

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.errors import InputError
from mednext_jax.io.geometry import grid_problems, scan_warnings
from mednext_jax.io.nnunet_raw import read_nnunet_raw
from mednext_jax.io.validate import validate

pytestmark = pytest.mark.core


def rewrite(path, change_voxels=None, affine=None):
    image = nib.load(path)
    voxels = np.asarray(image.dataobj).copy()
    if change_voxels is not None:
        voxels = change_voxels(voxels)
    nib.save(nib.Nifti1Image(voxels, image.affine if affine is None else affine), path)


def found(problems, severity):
    return sorted(problem.what for problem in problems if problem.severity == severity)


def test_a_sound_data_set(raw_dataset):
    root = raw_dataset(channels=2)
    reports = validate(read_nnunet_raw(root))
    assert [report.id for report in reports] == ["sub-00", "sub-01", "sub-02"]
    first = reports[0]
    assert not any(report.problems for report in reports)
    assert first.axes == "LAS" and first.spacing == (1, 1, 1) and first.values == (0, 1)
    assert first.box_shape == (26, 28, 24)  # (d, h, w) of a head of (24, 28, 26) stored voxels
    assert first.relative_size == pytest.approx(26 * 28 * 24 / (36 * 40 * 34))
    assert len(first.sources) == 3 and all(len(digest) == 64 for digest in first.sources.values())


def test_all_problems_are_reported_together(raw_dataset):
    root = raw_dataset(cases=[f"c{i}" for i in range(9)])
    images, labels = root / "imagesTr", root / "labelsTr"
    (images / "c0_0000.nii.gz").write_bytes(b"no gzip")
    rewrite(images / "c1_0000.nii.gz", lambda v: np.where(v == v.max(), np.nan, v.astype(np.float32)))
    rewrite(labels / "c2.nii.gz", lambda v: v[1:])
    rewrite(labels / "c3.nii.gz", lambda v: v * 255)
    rewrite(labels / "c4.nii.gz", affine=np.eye(4))
    rewrite(labels / "c5.nii.gz", affine=np.diag([-1, 1, 1.1, 1]))
    rewrite(labels / "c6.nii.gz", lambda v: v * 0.5)
    shutil.copy(images / "c8_0000.nii.gz", images / "c7_0000.nii.gz")
    (labels / "c8.nii.gz").unlink()
    (root / "imagesTr" / "c9_0000.nii.gz").write_bytes((images / "c8_0000.nii.gz").read_bytes())
    shutil.copy(labels / "c7.nii.gz", labels / "c9.nii.gz")
    with pytest.raises(InputError) as error:
        validate(read_nnunet_raw(root))
    assert found(error.value.problems, "E") == sorted(
        [
            "A case has no label map.",
            "The number of training cases is not the one in dataset.json.",
            "The file is not a NIfTI scan.",
            "The scan has voxels that are not finite.",
            "The label map has another shape than its scan.",
            "The label map has unknown values.",
            "The label map has another orientation than its scan.",
            "The label map has another voxel size than its scan.",
            "The label map has values that are not integers.",
            "The same image is there under several names.",
        ]
    )
    text = str(error.value)
    assert "255 (" in text and "divide it by 255" in text and "c7, c9" in text and text.startswith("[E]")


def test_a_small_shift_is_a_warning_and_a_large_one_an_error():
    image = nib.Nifti1Image(np.zeros((10, 10, 10), np.uint8), np.eye(4))

    def problems(shift):
        affine = np.eye(4)
        affine[0, 3] = shift
        moved = nib.Nifti1Image(np.zeros((10, 10, 10), np.uint8), affine)
        return [problem.severity for problem in grid_problems(moved, image, "The label map", "a", "b")]

    assert [problems(shift) for shift in (0.05, 0.5, 2)] == [[], ["W"], ["E"]]


def test_outliers_and_empty_maps_are_warnings(raw_dataset):
    root = raw_dataset(cases=[f"c{i}" for i in range(5)], labels={"background": 0, "pvs": 1, "other": 2})
    images, labels = root / "imagesTr", root / "labelsTr"
    for path in (images / "c0_0000.nii.gz", labels / "c0.nii.gz"):
        rewrite(path, affine=np.eye(4))
    for path in (images / "c1_0000.nii.gz", labels / "c1.nii.gz"):
        rewrite(path, affine=np.diag([-1, 1, 2, 1]))
    rewrite(images / "c2_0000.nii.gz", lambda v: v + 50)
    rewrite(images / "c3_0000.nii.gz", lambda v: v - 20.0)
    rewrite(labels / "c4.nii.gz", lambda v: v * 0)
    reports = validate(read_nnunet_raw(root))
    problems = [problem for report in reports for problem in report.problems]
    assert found(problems, "W") == sorted(
        [
            "Some scans are stored in another orientation.",
            "Some scans have an unusual voxel size.",
            "Some scans have a background of zeros (skull-stripped), others do not.",
            "Some scans have negative values.",
            "The label map is empty.",
            "Some labels occur in no label map.",
        ]
    )


def test_a_data_set_without_any_label(raw_dataset):
    root = raw_dataset(cases=("a",))
    rewrite(root / "labelsTr" / "a.nii.gz", lambda v: v * 0)
    with pytest.raises(InputError, match="No label map has any label"):
        validate(read_nnunet_raw(root))


def scan(affine=None, shape=(40, 40, 40), sform=1, qform=1):
    image = nib.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4) if affine is None else affine)
    image.set_sform(image.affine, sform)
    image.set_qform(np.eye(4), qform)
    return image


def test_odd_grids_are_warnings():
    def whats(image):
        return [problem.what for problem in scan_warnings(image, "a.nii")]

    sheared, shifted = np.eye(4), np.eye(4)
    sheared[0, 1], shifted[0, 3] = 0.01, 5
    micrometres = scan()
    micrometres.header.set_xyzt_units("micron")
    not_a_rotation = scan()
    not_a_rotation.header["quatern_b"] = 3
    assert whats(scan()) == []
    assert whats(scan(sform=0, qform=0)) == ["The scan does not say where it lies in space."]
    assert "Sform and qform disagree." in whats(scan(shifted))
    assert whats(scan(sheared, qform=0)) == ["The affine is sheared."]
    assert whats(scan(np.diag([1, 1, 4, 1]), qform=0))[-1] == "The slices are thick."
    assert whats(scan(shape=(40, 20, 40))) == ["The scan is small."]
    assert whats(micrometres) == ["The unit of the scan is not mm."]
    micrometres.header["xyzt_units"] = 7
    assert whats(micrometres) == ["The unit of the scan is not mm."]
    assert whats(not_a_rotation) == ["The qform is not a rotation; it is not used."]
