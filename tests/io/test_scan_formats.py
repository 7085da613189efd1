"""MGZ, NRRD and MHA: the same voxels and place as the NIfTI file, and what is wrong with a bad one."""

from __future__ import annotations

import gzip
import sys

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.errors import InputError
from mednext_jax.io.geometry import grid_warnings
from mednext_jax.io.nifti import image_like, read_labels, read_scan, write_image
from mednext_jax.io.voxels import open_voxels

pytestmark = pytest.mark.core

VOXELS = np.random.default_rng(0).normal(100, 20, (7, 6, 5)).astype(np.float32)
# Oblique, mirrored, and of three voxel sizes.
TURN = nib.eulerangles.euler2mat(0.2, -0.3, 0.4) @ np.diag([-1.0, 0.9, 1.3])
AFFINE = nib.affines.from_matvec(TURN, [12.5, -30.25, 41.0])
MGH = ("a.mgz", "a.mgh")
ITK = ("a.nrrd", "a.mha", "packed.nrrd", "packed.mha")


def save(path, voxels=VOXELS, affine=AFFINE):
    """A file of the format that its ending says, written by nibabel, or by SimpleITK from a NIfTI file."""
    if path.suffix in (".mgz", ".mgh"):
        nib.save(nib.MGHImage(voxels, affine), path)
        return path
    sitk = pytest.importorskip("SimpleITK")
    nifti = path.with_suffix(".nii")
    nib.save(nib.Nifti1Image(voxels, affine), nifti)
    sitk.WriteImage(sitk.ReadImage(str(nifti)), str(path), path.name.startswith("packed"))
    nifti.unlink()
    return path


@pytest.mark.parametrize("name", [*MGH, *ITK])
def test_voxels_and_place_are_those_of_the_nifti_file(tmp_path, name):
    image = read_scan(save(tmp_path / name))
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), VOXELS)
    np.testing.assert_allclose(image.affine, AFFINE, atol=2e-5)  # MGH and NIfTI headers hold float32
    assert [problem.what for problem in grid_warnings(image, name)] == ["The scan is small."]
    write_image(tmp_path / "mask.nii.gz", image_like((VOXELS > 100).astype(np.uint8), image, np.uint8))
    mask = nib.load(tmp_path / "mask.nii.gz")
    np.testing.assert_allclose(mask.affine, AFFINE, atol=2e-5)
    assert (int(mask.header["sform_code"]), int(mask.header["qform_code"])) == (1, 1)


@pytest.mark.parametrize("name", ["a.mgz", "packed.nrrd", "a.mha"])
def test_label_maps_and_types(tmp_path, name):
    labels = (VOXELS > 110).astype(np.int16) * 7
    image = read_labels(save(tmp_path / name, labels))
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), labels)


def test_freesurfers_footer_is_no_surplus(tmp_path):
    path = save(tmp_path / "a.mgz")
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"mri_convert -c in out\0" * 1000))
    np.testing.assert_array_equal(np.asanyarray(read_scan(path).dataobj), VOXELS)


@pytest.mark.parametrize("space", ["right-anterior-superior", "left-anterior-superior", "RAS"])
def test_each_space_of_a_nrrd(tmp_path, space):
    pytest.importorskip("SimpleITK")
    head = f"NRRD0004\ntype: short\ndimension: 3\nspace: {space}\nsizes: 3 4 5\n"
    head += "space directions: (2,0,0) (0,3,0) (0,0,4)\nspace origin: (10,20,30)\nendian: little\nencoding: raw\n\n"
    (tmp_path / "a.nrrd").write_bytes(head.encode() + np.arange(60, dtype="<i2").tobytes())
    image = read_scan(tmp_path / "a.nrrd")
    sign = -1 if space.startswith("left") else 1
    np.testing.assert_allclose(image.affine, [[2 * sign, 0, 0, 10 * sign], [0, 3, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]])
    assert np.asanyarray(image.dataobj)[1, 2, 3] == 1 + 3 * 2 + 12 * 3


def test_a_scan_that_does_not_say_where_it_lies(tmp_path):
    pytest.importorskip("SimpleITK")
    head = b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 3 4 5\nspacings: 1 2 3\nencoding: raw\n\n"
    (tmp_path / "a.nrrd").write_bytes(head + bytes(range(60)))
    image = read_scan(tmp_path / "a.nrrd")
    assert any("where it lies" in problem.what for problem in grid_warnings(image, "a.nrrd"))
    assert list(nib.affines.voxel_sizes(image.affine)) == [1, 2, 3]


def test_freesurfers_axes_where_none_are_stored(tmp_path):
    path = save(tmp_path / "a.mgh", VOXELS, np.diag([1.0, 1, 1, 1]))
    raw = bytearray(path.read_bytes())
    raw[28:30] = b"\0\0"  # goodRASFlag
    path.write_bytes(raw)
    assert "".join(nib.aff2axcodes(read_scan(path).affine)) == "LIA"


def cut(path, keep):
    path.write_bytes(path.read_bytes()[:keep])


def replace(path, old, new):
    path.write_bytes(path.read_bytes().replace(old, new))


BAD = {
    "text": ("a.mgz", lambda p: p.write_text("no image"), "damaged"),
    "cut header": ("a.mgh", lambda p: (save(p), cut(p, 50)), "a header of 50 bytes"),
    "cut voxels": ("a.mgh", lambda p: (save(p), cut(p, 700)), "too short"),
    "cut stream": ("a.mgz", lambda p: (save(p), cut(p, 600)), "damaged"),
    "another type": ("a.mgh", lambda p: (save(p), p.write_bytes(p.read_bytes()[:20] + b"\0\0\0\x63" * 1)), "damaged"),
    "4-D": ("a.mgh", lambda p: save(p, np.stack([VOXELS] * 2, -1)), "4 axes"),
    "many voxels": (
        "a.mgh",
        lambda p: (save(p), p.write_bytes(p.read_bytes()[:4] + b"\0\1\0\0" * 3 + p.read_bytes()[16:])),
        "more than any brain scan",
    ),
    "no header": ("a.nrrd", lambda p: p.write_text("no image"), "damaged"),
    "truncated": ("a.nrrd", lambda p: (save(p), cut(p, 1000)), "too short|damaged"),
    "truncated stream": ("packed.mha", lambda p: (save(p), cut(p, 800)), "damaged"),
    "a pointer": ("a.mha", lambda p: (save(p), replace(p, b"= LOCAL", b"= /etc/passwd")), "another file"),
    "a pointer of NRRD": (
        "a.nrrd",
        lambda p: (save(p), replace(p, b"encoding: raw\n", b"encoding: raw\ndata file: /etc/passwd\n")),
        "another file",
    ),
    "another format": ("a.dcm", lambda p: p.write_bytes(b"x"), "not a NIfTI"),
    "empty": ("a.nrrd", lambda p: p.touch(), "0 bytes"),
    "missing": ("a.mha", lambda p: None, "is missing"),
}


@pytest.mark.parametrize(("name", "make", "words"), BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path, name, make, words, capfd):
    if name.endswith(("nrrd", "mha")):
        pytest.importorskip("SimpleITK")
    path = tmp_path / name
    make(path)
    with pytest.raises(InputError, match=words) as error:
        read_scan(path)
    assert str(path) in str(error.value)


def test_colours_are_refused(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    path = tmp_path / "a.mha"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 5, 3), np.uint8), isVector=True), str(path))
    with pytest.raises(InputError, match="single real numbers"):
        open_voxels(path)


def test_without_simpleitk_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.nrrd").write_text("NRRD0004")
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(InputError, match=r"mednext-jax\[formats\]"):
        open_voxels(tmp_path / "a.nrrd")
