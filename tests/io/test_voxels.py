"""The voxels of files and of images in memory: streams judged to their end, no more memory than they hold."""

from __future__ import annotations

import gzip
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from isal import igzip

from mednext_jax.errors import InputError
from mednext_jax.io.nifti import (
    from_volume,
    image_like,
    read_labels,
    read_scan,
    to_volume,
    write_image,
)
from tests.io.nifti_files import SHAPE, VOXELS, patch_header, save, with_voxel

pytestmark = pytest.mark.core


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
    write_image(tmp_path / "b.nii", image_like(VOXELS, image, np.int16))
    assert nib.load(tmp_path / "b.nii").shape == SHAPE


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
    write_image(tmp_path / "a.nii", image_like(from_volume(volume[..., 0], grid) > 30, grid, np.uint8))
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


def test_true_and_false_are_a_mask():
    mask = VOXELS.mean() < VOXELS
    with pytest.warns(UserWarning, match="1 mm"):
        labels, scan = read_labels(mask), read_scan(mask)
    for image in (labels, scan):
        np.testing.assert_array_equal(np.asarray(image.dataobj), mask)


def test_the_checksum_of_an_image_that_nibabel_opened_is_judged_too(tmp_path):
    path = tmp_path / "a.nii.gz"
    save(path, np.random.default_rng(0).normal(300, 80, (24, 24, 20)).astype(np.int16))
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        read_scan(nib.load(path))
