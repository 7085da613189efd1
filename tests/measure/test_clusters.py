"""Clusters, their sizes and their regions, against scikit-image and shapes with known measures."""

from __future__ import annotations

import numpy as np
import pytest

from mednext_jax.measure.clusters import ClusterVoxels, cluster_regions, label_clusters, vote

pytestmark = pytest.mark.core


def mask_of(*voxels, shape=(12, 12, 12)):
    mask = np.zeros(shape, bool)
    for voxel in voxels:
        mask[voxel] = True
    return mask


def test_corners_connect():
    mask = mask_of((1, 1, 1), (2, 2, 2), (2, 3, 3), (5, 5, 5), (5, 5, 7))
    labels, count = label_clusters(mask)
    assert count == 3
    assert labels[1, 1, 1] == labels[2, 2, 2] == labels[2, 3, 3]
    np.testing.assert_array_equal(np.bincount(labels.ravel())[1:], [3, 1, 1])


@pytest.mark.parametrize(("connectivity", "shared"), [(6, 1), (18, 2), (26, 3)])
def test_labels_are_those_of_scikit_image(connectivity, shared):
    measure = pytest.importorskip("skimage.measure")
    mask = np.random.default_rng(0).random((30, 31, 32)) < 0.06
    labels, count = label_clusters(mask, connectivity)
    expected = measure.label(mask, connectivity=shared)
    assert count == expected.max()
    pairs = np.unique(np.stack([labels[mask], expected[mask]]), axis=1)
    assert pairs.shape[1] == count  # one to one


def test_region_by_majority_of_the_voxels_that_have_one():
    mask = mask_of((0, 0, 0), (0, 0, 1), (0, 0, 2), (4, 4, 4), (4, 4, 5), (8, 8, 8), (11, 11, 11), (11, 11, 10))
    regions = np.zeros(mask.shape, np.int16)
    regions[0, 0, :3] = [7, 2, 7]
    regions[4, 4, 5] = 2  # the other voxel lies in no region
    regions[11, 11, 10:] = [7, 2]  # a tie
    labels, count = label_clusters(mask)
    np.testing.assert_array_equal(cluster_regions(labels, count, regions), [7, 2, 0, 2])
    inside = labels > 0
    np.testing.assert_array_equal(vote(labels[inside] - 1, count, regions[inside])[1], [False, False, False, True])


def test_nothing():
    labels, count = label_clusters(np.zeros((3, 4, 5)))
    voxels = ClusterVoxels.of(labels, count, np.eye(4))
    assert count == voxels.count == len(voxels.sizes) == 0
    assert cluster_regions(labels, count, np.ones((3, 4, 5))).shape == (0,)


def test_voxels_of_each_cluster_and_of_some():
    mask = mask_of((1, 1, 1), (1, 1, 2), (5, 5, 5), (9, 9, 9), (9, 9, 10), (9, 9, 11))
    labels, count = label_clusters(mask)
    affine = np.diag([0.5, 1, 2, 1])
    affine[:3, 3] = [10, 20, 30]
    voxels = ClusterVoxels.of(labels, count, affine)
    np.testing.assert_array_equal(voxels.sizes, [2, 1, 3])
    np.testing.assert_array_equal(voxels.means(voxels.points), [[10.5, 21, 33], [12.5, 25, 40], [14.5, 29, 50]])
    assert voxels.voxel_volume == 1.0
    some = voxels.of_clusters(np.array([True, False, True]))
    np.testing.assert_array_equal(some.means(some.points), [[10.5, 21, 33], [14.5, 29, 50]])
    np.testing.assert_array_equal(some.owner, [0, 0, 1, 1, 1])
