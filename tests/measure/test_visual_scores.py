"""Visual scores: grades at their borders, and the fullest slice of made-up clusters."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mednext_jax.measure.clusters import ClusterVoxels, label_clusters
from mednext_jax.measure.visual_scores import fullest_slice, potter_grade

pytestmark = pytest.mark.core


def test_grades_at_their_borders():
    assert [potter_grade(n) for n in (0, 1, 10, 11, 20, 21, 40, 41, 400)] == [0, 1, 1, 2, 2, 3, 3, 4, 4]


def mask():
    """One PVS along z from 2 to 9; a U that lies in slice 6 twice; two points in slices 4 and 6."""
    voxels = np.zeros((12, 12, 12), bool)
    voxels[1, 1, 2:10] = True
    voxels[5, 5, 6:9] = voxels[5, 8, 6:9] = voxels[5, 5:9, 8] = True
    voxels[9, 2, 4] = voxels[9, 9, 6] = True
    return voxels


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_whole_clusters_are_counted_in_each_slice_they_reach(axes):
    """The slice is axial whatever the order in which the axes are stored."""
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    affine[list(axes), range(3)] = [2, 2, 2]
    affine[:3, 3] = [0, 0, -10]
    voxels = ClusterVoxels.of(*label_clusters(mask().transpose(axes)), affine)
    found = fullest_slice(voxels, np.ones(voxels.count, bool))
    assert (found.count, found.z) == (3, 6 * 2 - 10)
    lonely = fullest_slice(voxels, voxels.sizes == 1)
    assert lonely.count == 1


def test_nothing_has_no_slice():
    voxels = ClusterVoxels.of(*label_clusters(mask()), np.eye(4))
    found = fullest_slice(voxels, np.zeros(voxels.count, bool))
    assert found.count == 0 and math.isnan(found.z)
