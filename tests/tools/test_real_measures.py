"""Measures on real scans, on a head of known parts."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.measure.freesurfer import FREESURFER
from mednext_jax.measure.parcellation import Parcellation
from mednext_jax.simulate.painting import paint_scan
from mednext_jax.simulate.placement import PvsDistribution
from tests.simulate.heads import AFFINE, region_map, scan_of
from tools.real_measures import Point, Tissue, agreement, at_count, curve, find, hit, recalls

pytestmark = pytest.mark.core

VALUES = region_map()
SCAN = scan_of(VALUES)
BRAIN = Parcellation.of(VALUES, AFFINE, FREESURFER)
TISSUE = Tissue.of(BRAIN, SCAN, AFFINE)
MIDDLE = (31, 31, 29)


def mask_of(*places, size=2):
    mask = np.zeros(VALUES.shape, bool)
    for x, y, z in places:
        mask[x : x + size, y : y + size, z : z + size] = True
    return mask


def first(where, axis_sum):
    """The voxel of `where` that is largest along a direction."""
    at = np.argwhere(where)
    return tuple(int(v) for v in at[(at @ np.array(axis_sum)).argmax()])


@pytest.fixture(scope="module")
def painted():
    asked = PvsDistribution(white_matter=(30, 30), basal_ganglia=(6, 6))
    return paint_scan(nib.Nifti1Image(SCAN, AFFINE), BRAIN, "T1w", np.random.default_rng(1), asked)


def test_tissue_is_told_by_the_map():
    np.testing.assert_array_equal(TISSUE.inside, np.isin(VALUES, (2, 41, 12, 51, 17, 53, 16)))
    assert np.all(TISSUE.wrong[np.isin(VALUES, (0, 3, 42, 4, 43))])
    # The cortex is 5 voxels thick, so that no white matter lies in the brain's outer 2 mm.
    np.testing.assert_array_equal(TISSUE.wrong, ~TISSUE.inside)
    deep = np.argwhere(TISSUE.deep)
    assert np.all(TISSUE.inside[tuple(deep.T)])
    for offset in ((1, 0, 0), (0, 1, 0), (0, 0, 2), (0, 0, -2)):  # up to 2 mm along each axis
        assert np.all(TISSUE.inside[tuple((deep + offset).T)])


def test_white_matter_at_the_brains_edge_is_misplaced():
    values = np.where(np.isin(VALUES, (3, 42)), 0, VALUES)
    tissue = Tissue.of(Parcellation.of(values, AFFINE, FREESURFER), np.where(values, SCAN, 0), AFFINE)
    edge = first(tissue.inside, (0, 1, 0))
    assert tissue.wrong[edge]
    assert not tissue.wrong[edge[0], edge[1] - 3, edge[2]]


def test_clusters_are_judged_by_half_of_their_voxels():
    white = (31, 12, 29)
    border = next(y for y in range(20) if TISSUE.inside[31, y, 29])  # the first of white matter
    in_cortex, in_ventricle, at_edge, deep = (31, border - 4, 29), (31, 31, 33), (31, border, 20), white
    at_edge = (31, next(y for y in range(20) if TISSUE.inside[31:33, y, 20:22].all()), 20)
    lesions = mask_of(deep, size=4)
    found = find(mask_of(in_cortex, in_ventricle, at_edge, deep), TISSUE, lesions)
    by_place = {place: found.labels[place] - 1 for place in (in_cortex, in_ventricle, at_edge, deep)}
    assert found.count == 4
    assert {p: bool(found.misplaced[k]) for p, k in by_place.items()} == {
        in_cortex: True,
        in_ventricle: True,
        at_edge: False,
        deep: False,
    }
    assert [bool(found.deep[by_place[p]]) for p in (at_edge, deep)] == [False, True]
    assert found.shares() == {"misplaced": 0.5, "not_deep": 0.75, "in_lesions": 0.25}
    assert np.isnan(find(mask_of(deep), TISSUE).shares()["in_lesions"])


def test_small_clusters_do_not_count():
    mask = mask_of((31, 12, 29))
    mask[25, 14, 29] = True
    assert find(mask, TISSUE).count == 2
    found = find(mask, TISSUE, min_voxels=2)
    assert found.count == 1
    assert found.labels.max() == 1
    assert found.labels[25, 14, 29] == 0
    assert find(np.zeros_like(mask), TISSUE).count == 0


def test_recall_counts_tubes_by_volume_and_strength(painted):
    assert hit(painted.label > 0, painted)[painted.voxels > 0].all()
    assert not hit(np.zeros(VALUES.shape, bool), painted).any()
    volume = np.array([one.tube.volume for one in painted.placed])
    some = np.zeros(VALUES.size, bool)
    for cells, share in painted.touched[::2]:
        some[cells[share.argmax()]] = True
    found = hit(some.reshape(VALUES.shape), painted)
    np.testing.assert_array_equal(found, np.arange(len(volume)) % 2 == 0)
    told = recalls(found, painted)
    assert told["recall"] == pytest.approx(np.mean(np.arange(len(volume)) % 2 == 0))
    for name, chosen in (
        ("below_5", volume < 5),
        ("5_to_15", (volume >= 5) & (volume < 15)),
        ("above_15", volume >= 15),
        ("weak", painted.strength < 0.4),
        ("strong", painted.strength >= 0.6),
    ):
        expected = found[chosen].mean() if chosen.any() else np.nan
        assert told[f"recall_{name}"] == pytest.approx(expected, nan_ok=True)


def test_agreement_is_one_of_a_mask_with_itself_and_chance_is_small():
    rng = np.random.default_rng(0)
    places = np.argwhere(TISSUE.deep)[rng.choice(TISSUE.deep.sum(), 12, replace=False)]
    one = find(mask_of(*places), TISSUE)
    same = agreement(one, one, TISSUE, rng)
    assert same["there"] == same["back"] == same["mean"] == 1
    # The chance to hit: about the share of tissue within a voxel or two of a cluster.
    assert 0 < same["shifted"] < 0.35
    assert same["ratio"] == pytest.approx(1 / same["shifted"])
    far = find(mask_of(places[0]), TISSUE)
    others = find(mask_of(*[p for p in places if np.abs(p - places[0]).max() > 5]), TISSUE)
    assert agreement(far, others, TISSUE, rng)["mean"] == 0
    nothing = agreement(one, find(np.zeros(VALUES.shape, bool), TISSUE), TISSUE, rng)
    assert np.isnan(nothing["mean"])


def test_misplaced_clusters_do_not_make_agreement():
    cortex = find(mask_of((31, 4, 29)), TISSUE)
    assert cortex.misplaced.all()
    assert np.isnan(agreement(cortex, cortex, TISSUE, np.random.default_rng(0))["mean"])


def test_a_curve_has_the_counts_of_its_thresholds(painted):
    probability = np.zeros(VALUES.shape, np.float32)
    for place, value in (((31, 12, 29), 0.3), ((25, 14, 29), 0.6), ((31, 4, 29), 0.9)):
        probability[place] = value
    after = np.where(painted.label > 0, 0.7, 0).astype(np.float32)
    points = curve(probability, after, painted, TISSUE, None, (0.2, 0.5, 0.8))
    assert [point.count for point in points] == [3, 2, 1]
    assert [point.shares["misplaced"] for point in points] == pytest.approx([1 / 3, 1 / 2, 1])
    labelled = (painted.voxels > 0).mean()
    assert [point.recalls["recall"] for point in points] == pytest.approx([labelled, labelled, 0], abs=0.05)


def test_equal_counts_take_the_lowest_threshold_that_never_has_more():
    points = [Point(t, n, {}, {}) for t, n in ((0.1, 30), (0.3, 90), (0.5, 60), (0.7, 20))]
    assert at_count(points, 60).threshold == 0.5  # 0.1 has fewer, but as everything has grown together
    assert at_count(points, 25).threshold == 0.7
    assert at_count(points, 100).threshold == 0.1
    assert at_count(points, 10) is None
