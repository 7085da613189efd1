"""Reading and writing scans: exact turns to RAS and back, the geometry of the input kept, bad files refused."""

from __future__ import annotations

import gzip
import itertools
import struct

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mednext_jax.errors import InputError
from mednext_jax.io.nifti import (
    from_volume,
    grid_of,
    image_like,
    label_volume,
    read_labels,
    read_scan,
    to_volume,
    write_image,
)
from tests.io.nifti_files import SHAPE, VOXELS, patch_header, save, with_voxel

pytestmark = pytest.mark.core


def affine_of(permutation, signs, sizes=(0.7, 0.8, 1.2), offset=(10.0, -20.0, 30.0)):
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, list(permutation)] * signs * np.asarray(sizes)
    affine[:3, 3] = offset
    return affine


ORIENTATIONS = [
    (permutation, signs)
    for permutation in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


@pytest.mark.parametrize(("permutation", "signs"), ORIENTATIONS)
def test_every_orientation_is_turned_to_ras_and_back_exactly(permutation, signs):
    image = nib.Nifti1Image(VOXELS, affine_of(permutation, signs))
    volume, spacing, grid = to_volume(image)
    canonical = nib.as_closest_canonical(image)
    assert volume.dtype == np.float32 and volume.flags.c_contiguous
    np.testing.assert_array_equal(volume[..., 0], np.asarray(canonical.dataobj).transpose(2, 1, 0))
    assert spacing == pytest.approx(canonical.header.get_zooms()[::-1])
    np.testing.assert_array_equal(from_volume(volume[..., 0], grid), VOXELS)
    np.testing.assert_array_equal(label_volume(image, grid), volume[..., 0])


def test_as_stored_keeps_the_axes():
    image = nib.Nifti1Image(VOXELS, affine_of((2, 0, 1), (-1, 1, -1)))
    volume, spacing, grid = to_volume(image, orientation=None)
    np.testing.assert_array_equal(volume[..., 0], VOXELS.transpose(2, 1, 0))
    assert spacing == pytest.approx((1.2, 0.8, 0.7))
    np.testing.assert_array_equal(from_volume(volume[..., 0], grid), VOXELS)


@settings(max_examples=40, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-np.pi, np.pi)] * 3),
    sizes=st.tuples(*[st.floats(0.3, 5)] * 3),
    shape=st.tuples(*[st.integers(1, 6)] * 3),
)
def test_oblique_scans_round_trip_and_have_the_sizes_of_their_columns(angles, sizes, shape):
    affine = np.eye(4)
    affine[:3, :3] = nib.eulerangles.euler2mat(*angles) * sizes
    voxels = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    volume, spacing, grid = to_volume(nib.Nifti1Image(voxels, affine))
    np.testing.assert_array_equal(from_volume(volume[..., 0], grid), voxels)
    assert sorted(spacing) == pytest.approx(sorted(sizes))


def test_channels_are_stacked_and_must_share_the_grid():
    first = nib.Nifti1Image(VOXELS, np.eye(4))
    volume, _, _ = to_volume([first, nib.Nifti1Image(VOXELS * 2, np.eye(4))])
    np.testing.assert_array_equal(volume[..., 1], volume[..., 0] * 2)
    with pytest.raises(InputError, match="A channel has another orientation"):
        to_volume([first, nib.Nifti1Image(VOXELS, np.diag([-1, 1, 1, 1]))])
    with pytest.raises(InputError, match="A channel has another shape"):
        to_volume([first, nib.Nifti1Image(VOXELS[1:], np.eye(4))])


def geometry(image):
    fields = ("pixdim", "qform_code", "sform_code", "xyzt_units", "quatern_b", "quatern_c", "quatern_d")
    fields += ("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z")
    return {name: image.header[name].tolist() for name in fields}


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(("sform_code", "qform_code"), [(1, 1), (4, 0), (0, 1), (0, 0), (2, 3)])
def test_what_is_written_lies_exactly_where_the_input_lay(tmp_path, kind, sform_code, qform_code):
    affine = np.eye(4)
    affine[:3, :3] = nib.eulerangles.euler2mat(0.1, 0.2, -0.3) * (0.7, 0.8, 1.2)
    source = kind(VOXELS, affine)
    source.set_sform(affine if sform_code else None, sform_code)
    source.set_qform(affine, qform_code)
    source.header.set_xyzt_units("mm", "sec")
    source.header["cal_max"], source.header["descrip"] = 7, b"scanner"
    source.to_filename(tmp_path / "in.nii.gz")

    image = read_scan(tmp_path / "in.nii.gz")
    _, _, grid = to_volume(image)
    for name, like in (("grid.nii.gz", grid), ("image.nii", image)):
        write_image(tmp_path / name, image_like(VOXELS > 30, like, np.uint8))
        before, after = nib.load(tmp_path / "in.nii.gz"), nib.load(tmp_path / name)
        assert type(after) is kind and after.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(after.affine, before.affine)
        assert geometry(after) == geometry(before)
        np.testing.assert_array_equal(np.asarray(after.dataobj), VOXELS > 30)
        assert after.header["cal_max"] == 0 and after.header["descrip"] == b""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["grid.nii.gz", "image.nii", "in.nii.gz"]


def test_a_mask_is_stored_without_scaling(tmp_path):
    scaled = nib.Nifti1Image(VOXELS * 0.5, np.eye(4))
    scaled.set_data_dtype(np.int16)  # nibabel chooses a slope
    scaled.to_filename(tmp_path / "in.nii")
    image = read_scan(tmp_path / "in.nii")
    assert np.asarray(image.dataobj) == pytest.approx(VOXELS * 0.5, abs=1e-3)  # the slope's own rounding
    write_image(tmp_path / "mask.nii", image_like(VOXELS % 2, image, np.uint8))
    assert struct.unpack("<ff", (tmp_path / "mask.nii").read_bytes()[112:120]) == (1, 0)


def test_the_same_voxels_are_the_same_bytes_and_plain_gzip(tmp_path):
    image = nib.Nifti1Image(VOXELS.astype(np.float32) / 7, np.eye(4))
    for name in ("a.nii.gz", "b.nii.gz", "c.nii"):
        write_image(tmp_path / name, image)
    compressed = (tmp_path / "a.nii.gz").read_bytes()
    assert compressed == (tmp_path / "b.nii.gz").read_bytes() and compressed[3:8] == bytes(5)  # no name, no time
    assert gzip.decompress(compressed) == (tmp_path / "c.nii").read_bytes()


def test_an_array_of_another_shape_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="shape"):
        image_like(VOXELS[1:], nib.Nifti1Image(VOXELS, np.eye(4)), np.uint8)


@pytest.mark.parametrize("value", [-1, 256, np.nan])
def test_values_that_a_type_does_not_hold_are_not_wrapped(value):
    with pytest.raises(ValueError, match="do not fit into uint8"):
        image_like(with_voxel(value), nib.Nifti1Image(VOXELS, np.eye(4)), np.uint8)


BAD = {
    "missing": ("a.nii.gz", lambda p: None, "A scan is missing"),
    "a folder": ("a.nii.gz", lambda p: p.mkdir(), "found:    a folder"),
    "text": ("a.nii", lambda p: p.write_text("patient report " * 100), "not a NIfTI"),
    "no bytes": ("a.nii.gz", lambda p: p.write_bytes(b""), "an empty file"),
    "cut header": ("a.nii", lambda p: p.write_bytes(b"\x5c\x01\0\0" + bytes(90)), "not a NIfTI"),
    "another ending": ("a.img", lambda p: p.write_bytes(b"x"), "not a NIfTI"),
    "plain named gz": ("a.nii.gz", lambda p: (save(p.with_name("b.nii")), p.with_name("b.nii").rename(p)), "not gzip"),
    "gz named plain": (
        "a.nii",
        lambda p: (save(p.with_name("b.nii.gz")), p.with_name("b.nii.gz").rename(p)),
        "without the ending .gz",
    ),
    "truncated gzip": (
        "a.nii.gz",
        lambda p: (
            save(p, np.random.default_rng(0).integers(0, 999, (30, 30, 30)).astype(np.int16)),
            p.write_bytes(p.read_bytes()[:9000]),
        ),
        "damaged",
    ),
    "gzip in the header": ("a.nii.gz", lambda p: (save(p), p.write_bytes(p.read_bytes()[:60])), "damaged"),
    "flipped gzip bits": (
        "a.nii.gz",
        lambda p: (save(p), p.write_bytes(p.read_bytes()[:40] + b"\xff\xff\xff" + p.read_bytes()[43:])),
        "damaged|not a NIfTI",
    ),
    "truncated plain": ("a.nii", lambda p: (save(p), p.write_bytes(p.read_bytes()[:-5])), "too short"),
    "4-D": ("a.nii", lambda p: save(p, np.stack([VOXELS, VOXELS], -1)), r"4 axes: 5 x 4 x 3 x 2"),
    "2-D": ("a.nii", lambda p: save(p, VOXELS[..., 0]), "2 axes"),
    "empty axis": ("a.nii", lambda p: (save(p), patch_header(p, 42, "<h", 0)), "axis without voxels"),
    "negative axis": ("a.nii", lambda p: (save(p), patch_header(p, 42, "<h", -3)), "axis without voxels"),
    "nine axes": ("a.nii", lambda p: (save(p), patch_header(p, 40, "<h", 9)), "axis without voxels"),
    "NaN": ("a.nii", lambda p: save(p, with_voxel(np.nan)), r"1 NaN or infinite voxels, the first at \(2, 1, 0\)"),
    "infinite": ("a.nii", lambda p: save(p, with_voxel(np.inf)), "1 NaN or infinite"),
    "beyond float32": ("a.nii", lambda p: save(p, with_voxel(1.0).astype(np.float64) * 1e300), "NaN or infinite"),
    "constant": ("a.nii", lambda p: save(p, np.full(SHAPE, 7, np.int16)), "7 in every voxel"),
    "complex": ("a.nii", lambda p: save(p, VOXELS.astype(np.complex64)), "complex voxels"),
    "RGB": (
        "a.nii",
        lambda p: save(p, np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))),
        "RGB voxels",
    ),
    "unknown voxel type": ("a.nii", lambda p: (save(p), patch_header(p, 70, "<h", 999)), "voxel type code 999"),
    "half of a pair": ("a.nii", lambda p: (save(p), patch_header(p, 344, "4s", b"ni1\0")), "single-file"),
    "voxels far off": ("a.nii", lambda p: (save(p), patch_header(p, 108, "<f", 1e12)), "start at byte 1e"),
    "voxels nowhere": ("a.nii", lambda p: (save(p), patch_header(p, 108, "<f", float("nan"))), "start at byte nan"),
    "affine NaN": ("a.nii", lambda p: (save(p), patch_header(p, 280, "<f", float("nan"))), "voxel size"),
    "affine singular": (
        "a.nii",
        lambda p: (save(p), patch_header(p, 280, "<8f", 1, 1, 0, 0, 0, 0.02, 0, 0)),
        "nearly parallel",
    ),
    "cut checksum": ("a.nii.gz", lambda p: (save(p), p.write_bytes(p.read_bytes()[:-8])), "damaged"),
    "cut length": ("a.nii.gz", lambda p: (save(p), p.write_bytes(p.read_bytes()[:-1])), "damaged"),
    "another length": ("a.nii.gz", lambda p: (save(p), p.write_bytes(p.read_bytes()[:-4] + b"abcd")), "damaged"),
    "bytes behind the gzip": ("a.nii.gz", lambda p: (save(p), p.write_bytes(p.read_bytes() + b"junk")), "damaged"),
    "more voxels than it says": (
        "a.nii.gz",
        lambda p: (
            save(p.with_name("b.nii"), np.zeros((20, 20, 20, 2), np.int16)),
            patch_header(p.with_name("b.nii"), 40, "<h", 3),
            p.write_bytes(gzip.compress(p.with_name("b.nii").read_bytes())),
        ),
        "16000 bytes more than the header declares .20 x 20 x 20 voxels of int16",
    ),
    "annex link": ("a.nii.gz", lambda p: p.symlink_to("../.git/annex/objects/x9/M.nii.gz"), "datalad get .*a.nii.gz"),
    "annex pointer": ("a.nii.gz", lambda p: p.write_text("/annex/objects/MD5E-s9--aa.nii.gz"), "datalad get"),
    "another link": ("a.nii.gz", lambda p: p.symlink_to("gone.nii.gz"), "link to gone.nii.gz, which is not there"),
    "LFS pointer": (
        "a.nii",
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 3\n"),
        "git lfs pull",
    ),
    "beyond intensities": (
        "a.nii",
        lambda p: save(p, with_voxel(1e20)),
        r"1 voxels beyond, such as 1e\+20 at \(2, 1, 0",
    ),
    "metres": ("a.nii", lambda p: save(p, affine=np.diag([0.001, 0.001, 0.001, 1])), "voxel size"),
}


@pytest.mark.parametrize(("name", "make", "words"), BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path, name, make, words):
    path = tmp_path / name
    make(path)
    with pytest.raises(InputError, match=words) as error:
        read_scan(path)
    assert str(path) in str(error.value)


def test_label_maps_are_integers(tmp_path):
    stored = (VOXELS % 3).astype(np.float32) + 1e-4  # what a float file makes of integers
    save(tmp_path / "a.nii.gz", stored)
    image = read_labels(tmp_path / "a.nii.gz")
    assert np.asarray(image.dataobj).dtype == np.int16
    np.testing.assert_array_equal(np.asarray(image.dataobj), VOXELS % 3)
    save(tmp_path / "b.nii.gz", np.zeros(SHAPE, np.uint8))
    assert not np.asarray(read_labels(tmp_path / "b.nii.gz").dataobj).any()  # an empty map is a map


@pytest.mark.parametrize(
    ("voxels", "words"),
    [
        (with_voxel(0.5), "not integers(.|\n)*1 voxels such as 0.5"),
        (with_voxel(np.nan), "not integers"),
        (with_voxel(1e9), "beyond 16 bits"),
        (np.where(VOXELS == 7, -1, 0).astype(np.int8), "negative values(.|\n)*1 voxels below 0, down to -1(.|\n)*int8"),
        (np.full(SHAPE, 2.0**40), "beyond 16 bits"),
    ],
)
def test_label_maps_with_other_values_are_refused(tmp_path, voxels, words):
    save(tmp_path / "a.nii", voxels)
    with pytest.raises(InputError, match=words):
        read_labels(tmp_path / "a.nii")


def test_a_grid_needs_three_axes():
    with pytest.raises(InputError, match="not one 3-D volume"):
        grid_of(nib.Nifti1Image(VOXELS[..., None], np.eye(4)))
