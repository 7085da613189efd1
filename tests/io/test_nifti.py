"""Reading and writing scans: exact turns to RAS and back, the input's geometry kept, hostile files refused."""

from __future__ import annotations

import gzip
import itertools
import struct
import subprocess
import sys
import tracemalloc

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from isal import igzip

from mednext_jax.errors import InputError
from mednext_jax.io.geometry import scan_warnings
from mednext_jax.io.nifti import (
    from_volume,
    grid_of,
    image_like,
    label_volume,
    read_labels,
    read_scan,
    to_volume,
    write_image,
    write_like,
)

pytestmark = pytest.mark.core

SHAPE = (5, 4, 3)
VOXELS = np.arange(60, dtype=np.int16).reshape(SHAPE)


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
        write_like(tmp_path / name, VOXELS > 30, like, np.uint8)
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
    write_like(tmp_path / "mask.nii", VOXELS % 2, image, np.uint8)
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


@pytest.mark.parametrize("dtype", [">i2", "<u2", ">f8", "<f4", "<i4", "u1"])
def test_voxel_types_and_byte_orders_are_read(tmp_path, dtype):
    header = nib.Nifti1Header(endianness=dtype[0] if dtype[0] in "<>" else "<")
    header.set_data_dtype(dtype)
    nib.Nifti1Image(VOXELS.astype(dtype), np.eye(4), header).to_filename(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(np.asarray(read_scan(tmp_path / "a.nii.gz").dataobj), VOXELS)


def test_a_few_bytes_behind_the_voxels_are_padding(tmp_path):
    save(tmp_path / "a.nii")
    with (tmp_path / "a.nii").open("ab") as file:
        file.write(bytes(512))
    np.testing.assert_array_equal(np.asarray(read_scan(tmp_path / "a.nii").dataobj), VOXELS)


def test_trailing_axes_of_one_are_dropped(tmp_path):
    nib.Nifti1Image(VOXELS[..., None, None], np.eye(4)).to_filename(tmp_path / "a.nii")
    image = read_scan(tmp_path / "a.nii")
    assert image.shape == SHAPE
    write_like(tmp_path / "b.nii", VOXELS, image, np.int16)
    assert nib.load(tmp_path / "b.nii").shape == SHAPE


def save(path, voxels=VOXELS, affine=None):
    nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine).to_filename(path)


def patch_header(path, offset, form, *values):
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, offset, *values)
    path.write_bytes(data)


def with_voxel(value):
    voxels = VOXELS.astype(np.float32)
    voxels[2, 1, 0] = value
    return voxels


BAD = {
    "missing": ("a.nii.gz", lambda p: None, "A scan is missing"),
    "a folder": ("a.nii.gz", lambda p: p.mkdir(), "found:    a folder"),
    "text": ("a.nii", lambda p: p.write_text("patient report " * 100), "not a NIfTI"),
    "no bytes": ("a.nii.gz", lambda p: p.write_bytes(b""), "an empty file"),
    "cut header": ("a.nii", lambda p: p.write_bytes(b"\x5c\x01\0\0" + bytes(90)), "not a NIfTI"),
    "another ending": ("a.mgz", lambda p: p.write_bytes(b"x"), "not a NIfTI"),
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


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dims", [(1000, 1000, 1000), (32767, 32767, 32767)])
def test_a_hostile_header_takes_no_memory(tmp_path, dims, compressed):
    path = tmp_path / "a.nii"
    save(path)
    patch_header(path, 42, "<3h", *dims)
    if compressed:
        path = tmp_path / "a.nii.gz"
        path.write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes()))
    tracemalloc.start()
    with pytest.raises(InputError, match="too short|more voxels"):
        read_scan(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_header_with_any_bytes_is_read_and_written_or_refused(tmp_path, changes):
    path = tmp_path / "a.nii"
    save(path)
    data = bytearray(path.read_bytes())
    for position, value in changes:
        data[position] = value
    path.write_bytes(data)
    try:
        image = read_scan(path)
    except InputError:
        return
    scan_warnings(image, path)
    volume, _, grid = to_volume(image)
    write_like(tmp_path / "b.nii", from_volume(volume[..., 0], grid) > 30, grid, np.uint8)
    np.testing.assert_array_equal(nib.load(tmp_path / "b.nii").affine, image.affine)


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


def test_every_flipped_bit_of_a_compressed_scan_is_noticed_or_changes_nothing(tmp_path):
    path, noisy = tmp_path / "a.nii.gz", np.random.default_rng(0).normal(300, 80, (24, 24, 20)).astype(np.int16)
    save(path, noisy)
    whole, refused = path.read_bytes(), 0
    for k in range(150):
        at = len(whole) - 1 - 211 * k % len(whole)  # all parts, the checksum and the length too
        flipped = bytearray(whole)
        flipped[at] ^= 1 << k % 8
        path.write_bytes(flipped)
        try:
            np.testing.assert_array_equal(np.asarray(read_scan(path).dataobj), noisy)
        except InputError:
            refused += 1
    assert refused > 140  # the rest lies in the time and flags of the gzip header


@pytest.mark.parametrize("name", ["a.nii.gz", "b.NII.GZ", "c.Nii"])
def test_endings_are_read_in_any_case(tmp_path, name):
    save(tmp_path / "s.nii.gz" if name.lower().endswith("gz") else tmp_path / "s.nii")
    next(tmp_path.iterdir()).rename(tmp_path / name)
    np.testing.assert_array_equal(np.asarray(read_scan(tmp_path / name).dataobj), VOXELS)


def test_several_members_and_padding_are_one_stream(tmp_path):
    save(tmp_path / "a.nii")
    data = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(data[:400]) + gzip.compress(data[400:]) + bytes(512))
    np.testing.assert_array_equal(np.asarray(read_scan(tmp_path / "a.nii.gz").dataobj), VOXELS)


def test_a_scaled_scan_longer_than_a_piece_is_what_nibabel_reads(tmp_path):
    path = tmp_path / "a.nii.gz"
    scaled = nib.Nifti1Image(np.random.default_rng(0).normal(0, 50, (97, 89, 83)), np.eye(4))
    scaled.set_data_dtype(np.int16)
    scaled.to_filename(path)
    expected = np.asarray(nib.load(path).dataobj).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(read_scan(path).dataobj), expected)


def test_what_declares_gigabytes_takes_as_much_as_its_voxels_hold(tmp_path):
    # 1 GiB of float64 zeros in about 1 MB: it can hold what it declares, and holds it.
    save(tmp_path / "a.nii", np.zeros(SHAPE))
    patch_header(tmp_path / "a.nii", 42, "<3h", 512, 512, 512)
    path = tmp_path / "a.nii.gz"
    with igzip.open(path, "wb") as file:
        file.write((tmp_path / "a.nii").read_bytes()[:352])
        for _ in range(64):
            file.write(bytes(2**24))
    run = [sys.executable, "-c", PEAK, path]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300, check=True)
    first, grown = done.stdout.split(";")
    assert first == "The scan is constant."
    assert float(grown) < 64  # MiB


PEAK = """
import resource, sys
from mednext_jax.errors import InputError
from mednext_jax.io.nifti import read_scan
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_scan(sys.argv[1])
except InputError as error:
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(error.problems[0].what, grown, sep=";")
"""


@pytest.mark.parametrize("read", [read_scan, read_labels])
def test_what_does_not_fit_into_memory_is_not_read(tmp_path, read, monkeypatch):
    save(tmp_path / "a.nii")
    monkeypatch.setattr("mednext_jax.io.memory.free_memory", lambda: 100.0)
    with pytest.raises(InputError, match="more memory than is free"):
        read(tmp_path / "a.nii")


def rotated(kind, length):
    """An image that only its qform places, by a half turn whose quaternion has `length` instead of 1."""
    image = kind(VOXELS, None)
    image.header["pixdim"][:4] = -1, 0.7, 0.8, 1.2
    image.header["qform_code"] = 1
    quaternion = np.array([0.6, 0.8, 0.0]) * length
    image.header["quatern_b"], image.header["quatern_c"], image.header["quatern_d"] = quaternion
    return image


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("length", [1, 1 + 1e-6, 1.0001, 1.005])
def test_a_quaternion_a_little_longer_than_one_is_the_rotation_it_means(tmp_path, kind, length):
    rotated(kind, length).to_filename(tmp_path / "a.nii")
    image = read_scan(tmp_path / "a.nii")
    # A half turn about (0.6, 0.8, 0), then the third axis is turned round.
    turn = np.array([[-0.28, 0.96, 0], [0.96, 0.28, 0], [0, 0, 1]]) * (0.7, 0.8, 1.2)
    np.testing.assert_allclose(image.affine[:3, :3], turn, atol=1e-6)
    assert [w.what for w in scan_warnings(image, "a.nii")] == ["The scan is small."]


def test_a_quaternion_that_is_no_rotation_is_refused(tmp_path):
    rotated(nib.Nifti1Image, 3).to_filename(tmp_path / "a.nii")
    with pytest.raises(InputError, match="damaged"):
        read_scan(tmp_path / "a.nii")


@pytest.mark.parametrize(
    ("offset", "form", "value"), [(108, "<f", 352 - 3e-5), (108, "<f", 352 + 3e-5), (76, "<f", -0.9999999)]
)
def test_an_offset_and_a_qfac_off_by_rounding_are_what_they_mean(tmp_path, offset, form, value):
    path = tmp_path / "a.nii"
    rotated(nib.Nifti1Image, 1).to_filename(path)
    expected = read_scan(path)
    patch_header(path, offset, form, value)
    image = read_scan(path)
    np.testing.assert_array_equal(np.asarray(image.dataobj), VOXELS)
    np.testing.assert_array_equal(image.affine, expected.affine)


AFFINE = np.diag([0.7, 0.8, 1.2, 1.0])


@pytest.mark.parametrize(
    "image",
    [
        nib.MGHImage(VOXELS.astype(np.float32), AFFINE),
        nib.Nifti1Pair(VOXELS, AFFINE),
        nib.Nifti2Pair(VOXELS, AFFINE),
        nib.Spm99AnalyzeImage(VOXELS, AFFINE),
        nib.spatialimages.SpatialImage(VOXELS, AFFINE),
        nib.Nifti1Image(VOXELS[..., None], AFFINE),
        nib.Nifti1Image(VOXELS.astype(">f8"), AFFINE),
    ],
    ids=lambda image: type(image).__name__,
)
def test_images_in_memory_of_any_kind_are_read_and_written(image, tmp_path):
    for read in (read_scan, read_labels):
        found = read(image)
        assert isinstance(found, nib.Nifti1Image)
        np.testing.assert_array_equal(np.asarray(found.dataobj), VOXELS)
        np.testing.assert_allclose(found.affine, AFFINE)
    volume, spacing, grid = to_volume(read_scan(image))
    assert spacing == pytest.approx((1.2, 0.8, 0.7))
    write_like(tmp_path / "a.nii", from_volume(volume[..., 0], grid) > 30, grid, np.uint8)
    np.testing.assert_allclose(nib.load(tmp_path / "a.nii").affine, AFFINE, rtol=1e-6)


COLOURS = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (nib.Nifti1Image(VOXELS, None), "no affine"),
        (nib.Nifti1Image(np.zeros(SHAPE, COLOURS), AFFINE), "RGB voxels"),
        (nib.Nifti1Image(VOXELS.astype(np.complex64), AFFINE), "complex voxels"),
        (nib.Nifti1Image(np.ones(SHAPE, np.float32), AFFINE), "constant"),
        (nib.Nifti1Image(with_voxel(np.nan), AFFINE), "not finite"),
        (nib.Nifti1Image(with_voxel(-1e20), AFFINE), "no scanner writes"),
        (nib.Nifti1Image(VOXELS[..., 0], AFFINE), "2 axes"),
        (nib.Nifti1Image(np.stack([VOXELS, VOXELS], -1), AFFINE), "4 axes"),
        (nib.Nifti1Image(np.zeros((4, 0, 3), np.int16), AFFINE), "no voxels"),
        (nib.MGHImage(VOXELS.astype(np.float32), np.diag([0.001, 0.001, 0.001, 1])), "voxel size"),
        (7, "neither a file nor an image"),
        (None, "neither a file nor an image"),
        ([VOXELS], "neither a file nor an image"),
    ],
)
def test_images_in_memory_are_refused_as_files_are(image, words):
    with pytest.raises(InputError, match=words) as error:
        read_scan(image)
    assert len(str(error.value)) < 1000


def test_an_array_is_read_with_a_warning_that_its_grid_is_not_known():
    with pytest.warns(UserWarning, match="1 mm"):
        image = read_scan(VOXELS)
    np.testing.assert_array_equal(np.asarray(image.dataobj), VOXELS)
    np.testing.assert_array_equal(image.affine, np.eye(4))
    with pytest.warns(UserWarning), pytest.raises(InputError, match="voxels are not single real"):
        read_scan(np.array([[["text"]]]))


def test_the_checksum_of_an_image_that_nibabel_opened_is_judged_too(tmp_path):
    path = tmp_path / "a.nii.gz"
    save(path, np.random.default_rng(0).normal(300, 80, (24, 24, 20)).astype(np.int16))
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        read_scan(nib.load(path))


@pytest.mark.parametrize(("value", "expected"), [(-100_000.0, "up to 1e+05"), (1000.0, None)])
def test_voxels_far_beyond_all_others_are_warned_of(value, expected):
    voxels = np.random.default_rng(0).normal(300, 80, (40, 36, 32)).astype(np.float32)
    voxels[3, 2, 1] = value
    found = scan_warnings(read_scan(nib.Nifti1Image(voxels, np.eye(4))), "a.nii")
    far = [warning.found for warning in found if warning.what == "Some voxels are far beyond all others."]
    assert far == ([] if expected is None else [expected])
