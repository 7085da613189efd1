"""Resampling equals scikit-image as nnU-Net calls it, for images and for labels, on NumPy and on JAX."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from mednext_jax.ops.resample import find_thick_axis, resampled_shape, resize, resize_labels, resize_matrix

skimage_transform = pytest.importorskip("skimage.transform")

SHAPES = [
    ((20, 25, 15), (25, 31, 19)),
    ((20, 25, 15), (16, 12, 15)),
    ((7, 3, 5), (9, 2, 11)),
    ((13, 9, 1), (20, 18, 3)),
    ((16, 16, 16), (16, 16, 32)),
]
# Float32 products of unit-variance data against skimage's float64: 1.6e-6 measured; nnU-Net parity asks 1e-5.
TOLERANCE = 1e-5


def skimage_resize(x, shape, order):
    return skimage_transform.resize(x.astype(float), shape, order, mode="edge", anti_aliasing=False)


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize(("before", "after"), SHAPES)
def test_equal_to_skimage_on_numpy_and_jax(before, after, order):
    x = np.random.default_rng(0).normal(size=before).astype(np.float32)
    expected = skimage_resize(x, after, order)
    result = resize(x, after, order)
    assert isinstance(result, np.ndarray) and result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=TOLERANCE)
    np.testing.assert_allclose(resize(jnp.asarray(x), after, order), expected, atol=TOLERANCE)


def test_cubic_stays_in_the_range_of_its_own_channel():
    x = np.zeros((12, 12, 12, 2), np.float32)
    x[4:8, 4:8, 4:8, 0], x[..., 1] = 1, 50
    x[0, 0, 0, 1] = 40
    result = resize(x, (20, 20, 20), 3)
    assert result[..., 0].min() == 0 and result[..., 0].max() == 1  # without the clip it rings by 0.1
    for c in range(2):
        np.testing.assert_allclose(result[..., c], skimage_resize(x[..., c], (20, 20, 20), 3), atol=50 * TOLERANCE)


def test_thick_slices_are_resized_one_by_one():
    x = np.random.default_rng(0).normal(size=(6, 20, 18)).astype(np.float32)
    x[2] *= 10  # each slice has its own range, so a clip over the volume would show
    slices = np.stack([skimage_resize(part, (25, 22), 3) for part in x])
    expected = slices[np.floor((np.arange(30) + 0.5) * 6 / 30).astype(int)]
    np.testing.assert_allclose(resize(x, (30, 25, 22), 3, thick_axis=0), expected, atol=10 * TOLERANCE)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_a_matrix_keeps_constants_and_is_the_identity_at_equal_size(order):
    np.testing.assert_allclose(resize_matrix(17, 29, order).sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(resize_matrix(17, 17, order), np.eye(17), atol=1e-10)


def test_an_unknown_order_is_an_error():
    with pytest.raises(ValueError, match="0, 1 or 3"):
        resize_matrix(3, 4, 2)


def blobs(shape, seed=0):
    """Labels -1 (a border), 0, 1, 2 in patches of a few voxels."""
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = sum(np.roll(noise, s, a) for a in range(3) for s in (-1, 0, 1))
    labels = (smooth > 2).astype(np.int16) + (smooth > 4)
    labels[:2] = -1
    return labels


@pytest.mark.parametrize(("before", "after"), [*SHAPES[:2], ((20, 20, 20), (25, 25, 25)), ((10, 10, 10), (20, 20, 20))])
def test_labels_follow_the_largest_score(before, after):
    labels = blobs(before)
    values = np.unique(labels)
    scores = np.stack([skimage_resize(labels == value, after, 1) for value in values])
    nearest = skimage_resize(labels, after, 0).astype(np.int16)
    ordered = np.sort(scores, axis=0)
    clear = ordered[-1] - ordered[-2] > 1e-4
    result = resize_labels(labels, after)
    assert result.dtype == labels.dtype and clear.mean() > 0.5
    np.testing.assert_array_equal(result[clear], values[scores.argmax(axis=0)][clear])
    # A tie goes to the nearest voxel's label if it is among the tied ones.
    chosen = np.take_along_axis(scores, np.searchsorted(values, nearest)[None], axis=0)[0]
    nearest_ties = chosen > ordered[-1] - 1e-6
    np.testing.assert_array_equal(result[nearest_ties], nearest[nearest_ties])


def test_a_tie_without_the_nearest_goes_to_the_lowest_label():
    # At the centre of this block labels 1 and 2 score 0.375 each; the nearest voxel is a 3 (batchgenerators' example).
    labels = np.array([3, 1, 1, 1, 2, 2, 2, 3]).reshape(2, 2, 2)
    assert resize_labels(labels, (1, 1, 1)).item() == 1


def test_thick_labels_are_resized_slice_by_slice():
    labels = blobs((6, 20, 18))
    flat = np.stack([resize_labels(part[None], (1, 25, 22))[0] for part in labels])
    expected = flat[np.floor((np.arange(30) + 0.5) * 6 / 30).astype(int)]
    np.testing.assert_array_equal(resize_labels(labels, (30, 25, 22), thick_axis=0), expected)


@pytest.mark.parametrize(
    ("spacing", "target", "axis"),
    [
        ((4, 1, 1), (0.8, 0.8, 0.8), 0),
        ((1, 1, 1), (1, 5, 1), 1),
        ((3, 1, 1), (1, 1, 1), None),  # not over 3
        ((0.24, 1.25, 1.25), (1, 1, 1), None),  # two coarse axes
    ],
)
def test_the_thick_axis(spacing, target, axis):
    assert find_thick_axis(spacing, target) == axis


def test_the_new_shape_rounds_half_to_even():
    assert resampled_shape((10, 9, 1), (0.25, 0.5, 0.1), (1, 1, 1)) == (2, 4, 1)
