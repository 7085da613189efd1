"""The middle line of a cluster: ends, places along it, and what has none."""

from __future__ import annotations

import numpy as np
import pytest

from mednext_jax.measure.clusters import ClusterVoxels, label_clusters
from mednext_jax.measure.course import MAX_DEGREE, MOST_VOXELS, degree_of, distances_to_an_end, fit_course

pytestmark = pytest.mark.core


def test_distance_through_the_cluster_not_across_its_gap():
    mask = np.zeros((9, 9, 3), bool)
    mask[1, 1:8, 1] = mask[7, 1:8, 1] = mask[1:8, 7, 1] = True  # a U, its ends at y = 1
    voxels = ClusterVoxels.of(*label_clusters(mask), np.diag([2.0, 2, 2, 1]))
    distance = distances_to_an_end(voxels)
    ends = sorted(distance[(voxels.index[:, 1] == 1)])
    # 18 steps of 2 mm, of which the two corners are cut
    assert ends == [0, pytest.approx(2 * (14 + 2 * np.sqrt(2)))]


def test_two_clusters_do_not_reach_each_other():
    mask = np.zeros((12, 5, 5), bool)
    mask[1:4, 2, 2] = mask[6:11, 2, 2] = True
    voxels = ClusterVoxels.of(*label_clusters(mask), np.eye(4))
    distance = distances_to_an_end(voxels)
    assert sorted(distance[voxels.owner == 0]) == [0, 1, 2] and distance[voxels.owner == 1].max() == 4


def test_a_quarter_of_a_circle():
    angle = np.linspace(0, np.pi / 2, 200)
    points = 10 * np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1)
    course = fit_course(points, 7 * angle, 3, 0.2)
    np.testing.assert_allclose(course.along - course.along[0], 10 * angle, atol=0.03)
    assert course.tortuosity == pytest.approx((np.pi / 2) / np.sqrt(2), rel=5e-3)
    tangent = np.stack([-np.sin(angle), np.cos(angle), 0 * angle], 1)
    assert np.abs((course.tangent * tangent).sum(1)).min() > 0.99


def test_points_in_one_place_have_no_course():
    assert fit_course(np.zeros((5, 3)), np.zeros(5), 2, 0.5) is None
    assert fit_course(np.zeros((5, 3)), np.arange(5.0), 2, 0.5) is None


def test_how_much_a_line_may_bend():
    count = np.array([3, 50, 50, 50, MOST_VOXELS + 1])
    found = degree_of(np.array([9.0, 9.0, 9.0, 90.0, 90.0]), np.array([1.0, 1.0, 4.0, 1.0, 1.0]), 1.0, count)
    assert found.tolist() == [1, 2, 1, MAX_DEGREE, 1]
