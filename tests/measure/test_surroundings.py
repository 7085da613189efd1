"""Where clusters lie: regions, ties, ventricles and what they touch, in a brain of boxes."""

from __future__ import annotations

import numpy as np
import pytest

from mednext_jax.measure.clusters import ClusterVoxels, label_clusters
from mednext_jax.measure.freesurfer import FREESURFER
from mednext_jax.measure.parcellation import Parcellation
from mednext_jax.measure.shape import measure_shapes
from mednext_jax.measure.surroundings import find_surroundings
from tests.measure.brain import AFFINE, brain

pytestmark = pytest.mark.core


def surroundings(mask, affine=AFFINE, values=None):
    parcellation = Parcellation.of(brain() if values is None else values, AFFINE, FREESURFER).refined()
    voxels = ClusterVoxels.of(*label_clusters(mask), affine)
    shapes = measure_shapes(voxels)
    return find_surroundings(voxels, parcellation, shapes.centroid, shapes.direction)


def mask_of(*boxes):
    mask = np.zeros((40, 40, 40), bool)
    for box in boxes:
        mask[box] = True
    return mask


def test_regions_by_most_voxels_and_ties_are_said():
    found = surroundings(
        mask_of(
            np.s_[6, 10, 30:33],  # left centrum semiovale
            np.s_[9:13, 20, 15],  # one voxel of white matter, three of putamen
            np.s_[33:37, 10, 10],  # right: three voxels of white matter, one of cortex, which does not vote
            np.s_[18:22, 30, 10],  # two voxels on either side
            np.s_[2, 6:9, 10],  # cortex
        )
    )
    sides = [("white matter", "left"), ("basal ganglia", "left"), ("white matter", "right"), ("white matter", "left")]
    assert sorted(found.regions) == sorted([*sides, ("", "")])
    (tie,) = np.flatnonzero(found.tied)
    assert found.regions[tie] == ("white matter", "left") and found.parts.count("centrum semiovale") == 1


def test_most_of_a_cluster_must_be_above_the_ventricles_for_the_centrum():
    found = surroundings(mask_of(np.s_[6, 10, 24:29], np.s_[8, 20, 25:30]))
    assert found.parts == ["", "centrum semiovale"]  # 2 of 5, 3 of 5 voxels above


def test_distance_and_angle_to_the_ventricles():
    found = surroundings(mask_of(np.s_[8:12, 20, 24], np.s_[28, 18:22, 24]))
    # Left: along x, towards the ventricle, whose first voxel is 17; right: along y, past it, last voxel 22.
    np.testing.assert_allclose(found.to_ventricles, [(17 - 11) * 2, (28 - 22) * 2])
    np.testing.assert_allclose(found.from_normal, [0, 90], atol=5)


def test_beside_cortex_or_outer_fluid_but_not_beside_a_ventricle():
    found = surroundings(mask_of(np.s_[4, 10:13, 10], np.s_[6, 10:13, 10], np.s_[16, 20, 22:25], np.s_[3, 30:33, 10]))
    assert found.touches.tolist() == [True, True, False, False]  # in the order of x: 3, 4, 6, 16


def test_lobes():
    found = surroundings(mask_of(np.s_[30, 30:33, 30], np.s_[30, 6:9, 30]), values=brain(lobes=True))
    assert sorted(found.lobes) == ["frontal", "occipital"]


def test_a_scan_on_a_finer_grid():
    affine = AFFINE.copy()
    affine[:3, :3] /= 2
    mask = np.zeros((80, 80, 80), bool)
    mask[20:26, 40, 31] = True  # x = -20 to -15 mm: putamen
    assert surroundings(mask, affine).regions == [("basal ganglia", "left")]


def test_no_clusters():
    found = surroundings(np.zeros((40, 40, 40), bool))
    assert found.regions == [] and found.to_ventricles.shape == (0,) and found.touches.shape == (0,)
