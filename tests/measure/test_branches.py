"""Tubes that touch are cut apart where their skeleton branches."""

from __future__ import annotations

import numpy as np
import pytest

from mednext_jax.errors import InputError
from mednext_jax.measure import branches
from mednext_jax.measure.clusters import ClusterVoxels, label_clusters

pytestmark = pytest.mark.core


def tube(start, end, radius, shape=(40, 40, 20)):
    start, end = np.array(start, float), np.array(end, float)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1) - start
    axis = (end - start) / np.linalg.norm(end - start)
    along = grid @ axis
    away = np.linalg.norm(grid - along[..., None] * axis, axis=-1)
    return (along >= 0) & (along <= np.linalg.norm(end - start)) & (away <= radius)


def split(*tubes):
    mask = np.any(tubes, axis=0)
    voxels = ClusterVoxels.of(*label_clusters(mask), np.eye(4))
    assert voxels.count == 1
    return branches.split_clusters(voxels)


def test_two_tubes_that_cross_are_two():
    pytest.importorskip("skimage.morphology")
    one, other = tube((4, 20, 10), (36, 20, 10), 1.5), tube((20, 4, 10), (20, 36, 10), 1.5)
    found = split(one, other)
    assert found.count == 2 and len(found.index) == (one | other).sum()
    lengths = [np.ptp(found.index[found.owner == i], axis=0).max() + 1 for i in range(2)]
    assert lengths == [33, 33]


def test_a_side_branch_is_one_of_its_own():
    pytest.importorskip("skimage.morphology")
    found = split(tube((4, 20, 10), (36, 20, 10), 1.5), tube((20, 20, 10), (20, 36, 10), 1.5))
    assert found.count == 2 and sorted(found.sizes)[0] > 0.5 * 9 * 13


def test_a_single_tube_and_a_ball_stay_whole():
    pytest.importorskip("skimage.morphology")
    assert split(tube((4, 6, 3), (34, 30, 16), 2.5)).count == 1
    assert split(tube((4, 20, 10), (36, 20, 10), 1.5), tube((20, 20, 10), (20, 22, 10), 1)).count == 1
    grid = np.indices((20, 20, 20)) - 10
    assert split((grid**2).sum(0) <= 36).count == 1


def test_without_scikit_image_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(branches.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"scikit-image[\s\S]*mednext-jax\[quantify\]"):
        branches.split_clusters(ClusterVoxels.of(*label_clusters(np.ones((2, 2, 2))), np.eye(4)))
