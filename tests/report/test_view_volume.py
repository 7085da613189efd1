"""What the viewer gets is the scan: places in mm, values, clusters; a large scan fits into a page."""

from __future__ import annotations

import base64
import itertools
import zlib

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.report.view_volume import fitted, inner_voxels, packed, view_volume

pytestmark = pytest.mark.core

RANDOM = np.random.default_rng(0)


def unpacked(text, dtype, shape):
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype).reshape(shape, order="F")


def images(affine, shape=(30, 34, 28), spot=(12, 20, 9)):
    scan = np.zeros(shape, np.float32)
    scan[8:24, 9:26, 7:22] = RANDOM.normal(100, 5, (16, 17, 15))
    labels = np.zeros(shape, np.int16)
    labels[spot], scan[spot] = 7, 1000
    probability = (labels > 0).astype(np.float32)
    return [nib.Nifti1Image(array, affine) for array in (scan, probability, labels)]


def orientations():
    """Affines of every order and direction of the axes, with unequal voxels."""
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            affine = np.zeros((4, 4))
            for axis, (row, sign, size) in enumerate(zip(order, signs, (0.8, 1.0, 1.5), strict=True)):
                affine[row, axis] = sign * size
            affine[:, 3] = 5, -7, 11, 1
            yield affine


@pytest.mark.parametrize("affine", list(orientations()), ids=lambda a: "".join(nib.aff2axcodes(a)))
def test_a_spot_stays_at_its_place_in_mm(affine):
    volume = view_volume(*images(affine))
    (at,) = np.argwhere(volume.clusters == 7)
    assert nib.affines.apply_affine(volume.affine, at) == pytest.approx(nib.affines.apply_affine(affine, (12, 20, 9)))
    assert nib.aff2axcodes(volume.affine) == ("R", "A", "S")
    assert volume.scan[tuple(at)] == volume.scan.max() and volume.probability[tuple(at)] == 255
    assert inner_voxels(volume.clusters, volume.affine) == {7: tuple(at)}


def test_grey_values_are_linear_between_the_window_and_air_is_black():
    scan, probability, labels = images(np.eye(4))
    volume = view_volume(scan, probability, labels)
    low, high = volume.window
    values = scan.get_fdata()[12, 10:25, 9]
    expected = np.clip((values - low) / (high - low), 0, 1) * 255
    start = np.argwhere(volume.clusters == 7)[0] - (12, 20, 9)  # the crop
    found = volume.scan[12 + start[0], 10 + start[1] : 25 + start[1], 9 + start[2]]
    assert np.abs(found - expected).max() <= 0.51
    assert volume.scan[0, 0, 0] == 0


def test_values_below_the_empty_zero_do_not_lift_the_background():
    """Resampling an extracted brain leaves such values."""
    scan, probability, labels = images(np.eye(4))
    array = scan.get_fdata()
    array[8, 9, 7] = -60
    volume = view_volume(nib.Nifti1Image(array, np.eye(4)), probability, labels)
    assert volume.scan[0, 0, 0] == 0 and volume.window[0] > 0


def test_maps_of_uncertainty_are_on_the_same_grid_and_fill_their_bytes():
    scan, probability, labels = images(np.diag([-1.0, 1, 1, 1]))
    unsure = np.zeros(scan.shape, np.float32)
    unsure[12, 20, 9] = 0.25
    maps = {name: nib.Nifti1Image(unsure, scan.affine) for name in ("sd_between_folds", "entropy")}
    volume = view_volume(scan, probability, labels, maps)
    (at,) = np.argwhere(volume.clusters == 7)
    found = {name: int(array[tuple(at)]) for name, array in volume.maps.items()}
    assert found == {"sd_between_folds": 128, "entropy": 64}  # of 0.5 and of 1 bit
    small = fitted(volume, 3000)
    assert max(small.reduced) > 1 and all(array.shape == small.shape and array.any() for array in small.maps.values())


@pytest.mark.parametrize(("dtype", "high"), [(np.uint8, 256), (np.uint16, 2**16), (np.uint32, 2**20)])
def test_packed_voxels_are_unpacked_bit_for_bit(dtype, high):
    array = RANDOM.integers(0, high, (5, 4, 3)).astype(dtype)
    assert (unpacked(packed(array), np.dtype(dtype).newbyteorder("<"), (5, 4, 3)) == array).all()


def text_size(volume):
    return sum(len(packed(array)) for array in (volume.scan, volume.probability, volume.clusters))


@pytest.mark.parametrize(("part", "levels", "reduced"), [(1.1, (256,), 1), (0.8, (128, 64), 1), (0.2, (256, 128), 2)])
def test_a_volume_is_made_to_fit(part, levels, reduced):
    shape = (64, 60, 50)
    scan = np.zeros(shape)
    scan[8:56, 8:52, 6:44] = RANDOM.normal(100, 20, (48, 44, 38))
    labels = np.zeros(shape, np.int16)
    labels[20, 21, 22] = 3  # one voxel
    likely = (labels > 0).astype(np.float32)
    volume = view_volume(*(nib.Nifti1Image(array, np.eye(4)) for array in (scan, likely, labels)))
    limit = int(part * text_size(volume))
    small = fitted(volume, limit)
    assert text_size(small) <= limit
    assert max(small.reduced) == reduced and small.levels in levels
    assert len(np.unique(small.scan)) <= small.levels
    (at,) = np.argwhere(small.clusters == 3)  # is not lost
    apart = nib.affines.apply_affine(small.affine, at) - (20, 21, 22)
    assert np.abs(apart).max() <= (reduced - 1) / 2 + 1e-9
    assert small.probability[tuple(at)] > 200
    assert abs(float(small.scan[small.scan > 0].mean()) - float(volume.scan[volume.scan > 0].mean())) < 6


def test_the_voxel_of_a_curved_cluster_lies_in_it():
    labels = np.zeros((20, 20, 3), np.uint16)
    turn = np.linspace(0, np.pi, 60)
    labels[(10 + 8 * np.cos(turn)).round().astype(int), (8 * np.sin(turn)).round().astype(int), 1] = 2
    labels[0, 19, 2] = 5
    found = inner_voxels(labels, np.eye(4))
    assert set(found) == {2, 5} and all(labels[at] == label for label, at in found.items())
