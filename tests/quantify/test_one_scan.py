"""The tables of one scan: every number of a region row by hand, flags, what is counted."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from mednext_jax.errors import InputError
from mednext_jax.measure.freesurfer import FREESURFER
from mednext_jax.measure.parcellation import Parcellation
from mednext_jax.quantify.columns import CLUSTERS, COUNT_UNCERTAINTY, REGIONS, UNCERTAINTY
from mednext_jax.quantify.one_scan import Counting, quantify_arrays
from tests.measure.brain import AFFINE, brain
from tests.quantify.conftest import pvs_mask

pytestmark = pytest.mark.core

VOXEL = 8.0  # mm3


def measured(mask=None, values=None, **counting):
    parcellation = Parcellation.of(brain() if values is None else values, AFFINE, FREESURFER).refined()
    return quantify_arrays(pvs_mask() if mask is None else mask, AFFINE, None, parcellation, Counting(**counting))


def row(found, region, hemisphere="both"):
    (one,) = [r for r in found.regions if (r["region"], r["hemisphere"]) == (region, hemisphere)]
    return one


def test_the_whole_brain_by_hand():
    found = measured()
    whole = row(found, "whole brain")
    assert (whole["count"], whole["count_all"]) == (3, 5)
    assert (whole["volume_mm3"], whole["volume_all_mm3"]) == pytest.approx((19 * VOXEL, 22 * VOXEL))
    labelled = (
        np.isin(brain(), [v for v in FREESURFER if FREESURFER[v].tissue not in ("csf", "ventricle")]).sum() * VOXEL
    )
    assert whole["region_volume_mm3"] == pytest.approx(labelled)
    assert whole["fraction"] == pytest.approx(19 * VOXEL / labelled)
    assert whole["density_per_ml"] == pytest.approx(3 / (labelled / 1000))
    volumes = np.array([6, 8, 5]) * VOXEL
    assert whole["volume_mean_mm3"] == pytest.approx(volumes.mean())
    assert (whole["volume_median_mm3"], whole["volume_max_mm3"]) == (48, 64)
    counted = [r for r in found.clusters if r["counted"]]
    assert whole["length_total_mm"] == pytest.approx(sum(r["length_mm"] for r in counted))
    assert whole["width_mean_mm"] == pytest.approx(np.mean([r["width_mm"] for r in counted]))
    assert (whole["min_voxels"], whole["min_mm3"], whole["connectivity"]) == (5, 0, 26)
    assert whole["voxel_mm3"] == pytest.approx(VOXEL)


def test_regions_sides_and_parts():
    found = measured()
    counts = {(r["region"], r["hemisphere"]): (r["count"], r["count_all"]) for r in found.regions}
    assert counts[("basal ganglia", "both")] == counts[("basal ganglia", "left")] == (1, 1)
    assert counts[("basal ganglia", "right")] == (0, 0)
    assert counts[("white matter", "both")] == (2, 2)
    assert counts[("centrum semiovale", "left")] == (1, 1)
    assert counts[("thalamus", "right")] == (0, 1)  # two voxels: too small to count
    assert counts[("elsewhere", None)] == (0, 1)  # in the cortex
    thalamus = row(found, "thalamus", "right")
    assert thalamus["region_volume_mm3"] == pytest.approx(np.sum(brain() == 49) * VOXEL)
    assert thalamus["volume_mean_mm3"] is None and thalamus["fraction"] == 0


def test_lobes_have_rows_of_their_own():
    found = measured(values=brain(lobes=True))
    assert row(found, "white matter, occipital", "right")["count"] == 1
    assert row(found, "white matter, frontal")["count"] == 0
    assert {r["lobe"] for r in found.clusters} == {None, "occipital"}


def test_visual_scores():
    found = measured()
    basal = row(found, "basal ganglia")
    assert (basal["potter"], basal["wardlaw"], basal["slice_count"], basal["slice_z_mm"]) == (1, "mild", 1, 15 * 2 - 40)
    assert row(found, "basal ganglia", "right")["wardlaw"] == "none"
    assert row(found, "white matter")["potter"] is None
    many = np.zeros((40, 40, 40), np.uint8)
    many[5:16:2, 5:17:2, 28:33] = 1  # 36 in the left centrum semiovale
    many[24:31:2, 5:13:2, 28:33] = 1  # 16 in the right
    found = measured(many)
    assert row(found, "centrum semiovale")["count"] == 52
    assert [row(found, "centrum semiovale", h)["potter"] for h in ("both", "left", "right")] == [3, 3, 2]


def test_smallest_size_connectivity_and_flags():
    assert row(measured(min_voxels=0), "whole brain")["count"] == 5
    assert row(measured(min_voxels=0, min_mm3=41), "whole brain")["count"] == 2
    assert row(measured(min_voxels=0, min_mm3=40), "whole brain")["count"] == 3
    corners = np.zeros((40, 40, 40), np.uint8)
    corners[10, 10, 10] = corners[11, 11, 11] = corners[11, 12, 11] = 1
    assert [len(measured(corners, connectivity=c).clusters) for c in (26, 18, 6)] == [1, 2, 2]
    ball = np.zeros((40, 40, 40), np.uint8)
    ball[8:11, 8:11, 8:11] = 1
    ball[30, 8:20, 8] = 1
    flags = [(r["possible_lacune"], r["below_resolution"]) for r in measured(ball).clusters]
    assert flags == [(1, 0), (0, 1)]  # 6 mm and as wide as long; a line of single voxels
    touching = {r["voxels"]: r["touches_csf_or_cortex"] for r in measured().clusters}
    assert touching == {6: 0, 8: 0, 5: 0, 2: 0, 1: 1}


def test_without_a_map_there_is_the_whole_brain():
    probability = np.where(pvs_mask(), np.float32(0.75), np.float32(0.1))
    probability[10, 19, 15] = 1
    found = quantify_arrays(pvs_mask(), AFFINE, probability)
    (whole,) = found.regions
    assert whole["region"] == "whole brain" and whole["fraction"] is None and whole["count"] == 3
    by_size = {r["voxels"]: (r["probability_mean"], r["probability_max"], r["region"]) for r in found.clusters}
    assert by_size[6] == (pytest.approx((5 * 0.75 + 1) / 6), 1.0, None) and by_size[5][0] == pytest.approx(0.75)
    assert found.labels.dtype == np.uint16 and found.labels.max() == 5
    for number, one in enumerate(found.clusters, 1):
        assert one["cluster"] == number and (found.labels == number).sum() == one["voxels"]


def test_an_empty_mask_has_rows_of_zeros():
    found = measured(np.zeros((40, 40, 40), np.uint8))
    assert found.clusters == [] and found.labels.max() == 0
    assert all(r["count"] == r["count_all"] == r["volume_mm3"] == 0 for r in found.regions)
    assert row(found, "basal ganglia")["potter"] == 0 and row(found, "whole brain")["fraction"] == 0


def test_every_column_is_defined_and_in_its_order():
    found = measured()
    assert list(found.clusters[0]) == [c.name for c in CLUSTERS]
    assert list(found.regions[0]) == [c.name for c in REGIONS]
    columns = (*CLUSTERS, *UNCERTAINTY, *REGIONS, *COUNT_UNCERTAINTY)
    assert all(c.description for c in columns)
    assert all(c.units == "mm" for c in columns if c.name.endswith("_mm"))
    assert all(c.units == "mm3" for c in columns if c.name.endswith("_mm3"))


def test_clusters_that_touch_are_split_on_request():
    pytest.importorskip("skimage.morphology")
    cross = np.zeros((40, 40, 40), np.uint8)
    cross[4:17, 9:12, 8:11] = cross[9:12, 4:17, 8:11] = 1
    assert len(measured(cross).clusters) == 1
    parts = measured(cross, split=True)
    assert len(parts.clusters) == 2 and sorted(np.unique(parts.labels)) == [0, 1, 2]
    assert sum(r["voxels"] for r in parts.clusters) == cross.sum()


@pytest.mark.parametrize("wrong", [{"connectivity": 8}, {"min_voxels": -1}, {"min_mm3": math.nan}, {"min_mm3": -1.0}])
def test_what_cannot_be_counted_by(wrong):
    with pytest.raises(InputError):
        Counting(**wrong)
    assert dataclasses.asdict(Counting()) == {"connectivity": 26, "min_voxels": 5, "min_mm3": 0.0, "split": False}
