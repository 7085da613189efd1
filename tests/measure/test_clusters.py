"""Clusters, their sizes and their regions, against scikit-image and shapes with known measures."""

from __future__ import annotations

import numpy as np
import pytest

from mednext_jax.measure.clusters import cluster_regions, cluster_table, label_clusters

pytestmark = pytest.mark.core


def mask_of(*voxels, shape=(12, 12, 12)):
    mask = np.zeros(shape, bool)
    for voxel in voxels:
        mask[voxel] = True
    return mask


def tube(radius_mm, length_mm, direction, spacing, shape):
    """A straight tube through the middle of a grid."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    away = (grid - (np.array(shape) - 1) / 2) * spacing
    direction = np.array(direction) / np.linalg.norm(direction)
    along = away @ direction
    across = np.linalg.norm(away - along[..., None] * direction, axis=-1)
    return (np.abs(along) <= length_mm / 2) & (across <= radius_mm)


def test_corners_connect():
    mask = mask_of((1, 1, 1), (2, 2, 2), (2, 3, 3), (5, 5, 5), (5, 5, 7))
    labels, count = label_clusters(mask)
    assert count == 3
    assert labels[1, 1, 1] == labels[2, 2, 2] == labels[2, 3, 3]
    np.testing.assert_array_equal(np.bincount(labels.ravel())[1:], [3, 1, 1])


def test_labels_are_those_of_scikit_image():
    measure = pytest.importorskip("skimage.measure")
    mask = np.random.default_rng(0).random((30, 31, 32)) < 0.06
    labels, count = label_clusters(mask)
    expected = measure.label(mask)  # full connectivity is its default
    assert count == expected.max()
    pairs = np.unique(np.stack([labels[mask], expected[mask]]), axis=1)
    assert pairs.shape[1] == count  # one to one


def test_a_line_and_a_single_voxel():
    affine = np.diag([0.5, 0.8, 2.0, 1])
    affine[:3, 3] = [-10, -20, -30]
    mask = mask_of(*((3, y, 4) for y in range(2, 9)), (10, 10, 10))
    labels, count = label_clusters(mask)
    line, point = cluster_table(labels, count, affine)
    assert line.voxels == 7 and point.voxels == 1
    assert line.volume_mm3 == pytest.approx(7 * 0.8)
    assert line.length_mm == pytest.approx(7 * 0.8)  # along y
    assert (line.x_mm, line.y_mm, line.z_mm) == pytest.approx((-8.5, -16.0, -22.0))
    assert line.width_mm == pytest.approx(2 * np.sqrt(1.0 / np.pi))  # cross-section 0.5 x 2 mm
    assert (point.x_mm, point.y_mm, point.z_mm) == pytest.approx((-5.0, -12.0, -10.0))
    assert 0.5 <= point.length_mm <= 2.0


@pytest.mark.parametrize("direction", [(1, 0, 0), (1, 1, 0), (1, -2, 3)])
@pytest.mark.parametrize("spacing", [(0.5, 0.5, 0.5), (0.5, 0.5, 0.8)])
def test_length_and_width_of_a_tube(direction, spacing):
    mask = tube(1.0, 10.0, direction, spacing, (48, 48, 48))
    labels, count = label_clusters(mask)
    (cluster,) = cluster_table(labels, count, np.diag([*spacing, 1.0]))
    # 1 mm: a voxel's diagonal, by which a drawn tube's ends are uncertain
    assert cluster.length_mm == pytest.approx(10.0, abs=1.0)
    assert cluster.width_mm == pytest.approx(2.0, abs=0.2)


def test_region_by_majority_of_the_voxels_that_have_one():
    mask = mask_of((0, 0, 0), (0, 0, 1), (0, 0, 2), (4, 4, 4), (4, 4, 5), (8, 8, 8), (11, 11, 11), (11, 11, 10))
    regions = np.zeros(mask.shape, np.int16)
    regions[0, 0, :3] = [7, 2, 7]
    regions[4, 4, 5] = 2  # the other voxel lies in no region
    regions[11, 11, 10:] = [7, 2]  # a tie
    labels, count = label_clusters(mask)
    np.testing.assert_array_equal(cluster_regions(labels, count, regions), [7, 2, 0, 2])
    assert [c.region for c in cluster_table(labels, count, np.eye(4), regions)] == [7, 2, 0, 2]


def test_nothing():
    labels, count = label_clusters(np.zeros((3, 4, 5)))
    assert count == 0 and cluster_table(labels, count, np.eye(4)) == []
    assert cluster_regions(labels, count, np.ones((3, 4, 5))).shape == (0,)
