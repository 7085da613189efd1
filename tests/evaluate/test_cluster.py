"""Voxel and cluster scores against counts made by hand, and against the rules written as loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mednext_jax.evaluate.case import evaluate_case
from mednext_jax.evaluate.cluster import Overlaps, any_overlap, one_to_one, valdo
from mednext_jax.evaluate.voxel import voxel_metrics
from mednext_jax.measure.clusters import label_clusters

pytestmark = pytest.mark.core


def row(text):
    """A one-dimensional mask as a 3D one: 'x' is foreground."""
    return np.array([c == "x" for c in text])[None, None]


# Reference: three clusters A (4), B (2), C (1). Prediction: two pieces in A, one over B, one alone.
REFERENCE = row("xxxx..xx...x...")
PREDICTION = row("x.xx..xxx....x.")


def overlaps(prediction, reference):
    return Overlaps.of(label_clusters(prediction)[0], label_clusters(reference)[0])


def test_voxels_by_hand():
    scores = voxel_metrics(PREDICTION, REFERENCE)
    assert (scores["tp"], scores["fp"], scores["fn"]) == (5, 2, 2)
    assert scores["dice"] == pytest.approx(10 / 14)
    assert scores["precision"] == pytest.approx(5 / 7)
    assert scores["recall"] == pytest.approx(5 / 7)


def test_voxel_dice_is_the_f1_score_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 6, 7, 8)) < 0.3
    scores = voxel_metrics(a, b)
    precision, recall, f1, _ = sklearn.precision_recall_fscore_support(b.ravel(), a.ravel(), average="binary")
    assert (scores["precision"], scores["recall"], scores["dice"]) == pytest.approx((precision, recall, f1))


def test_any_overlap_by_hand():
    scores = any_overlap(overlaps(PREDICTION, REFERENCE))
    assert (scores["tp"], scores["fp"], scores["fn"], scores["tp_predicted"]) == (2, 1, 1, 3)
    assert scores["recall"] == pytest.approx(2 / 3)
    assert scores["precision"] == pytest.approx(2 / 3)  # reference clusters hit, as SHIVA; by predictions 3 / 4
    assert scores["dice"] == pytest.approx(2 / 3)


def test_other_rules_by_hand():
    # A's pieces: 1 and 2 voxels, IoU 1/4 and 2/4, one hit; B: IoU 2/3, a hit; 4 predicted and 3 reference clusters
    for scores in (valdo(overlaps(PREDICTION, REFERENCE)), one_to_one(overlaps(PREDICTION, REFERENCE))):
        assert (scores["tp"], scores["fp"], scores["fn"]) == (2, 2, 1)
        assert scores["dice"] == pytest.approx(4 / 7)
    wide = overlaps(row("xxxxxxxxxxxxxxx"), REFERENCE)
    # one prediction over all three: any overlap finds all, one-to-one one, VALDO one: IoU with A is 4/15
    assert any_overlap(wide)["tp"] == 3
    assert valdo(wide)["tp"] == one_to_one(wide)["tp"] == 1
    assert valdo(wide, threshold=0.3)["tp"] == 0


def test_rules_count_the_chosen_clusters_and_match_them_with_all():
    """Of regions that share the clusters out, hits, false and missed ones add up to the whole."""
    rng = np.random.default_rng(2)
    found = overlaps(*(rng.random((2, 16, 15, 14)) < 0.03))
    sides = [rng.integers(0, 3, len(sizes)) for sizes in (found.predicted_sizes, found.reference_sizes)]
    for rule in (any_overlap, valdo, one_to_one):
        whole = rule(found)
        assert min(whole["tp"], whole["fp"], whole["fn"]) > 0
        parts = [rule(found, predicted_chosen=sides[0] == i, reference_chosen=sides[1] == i) for i in range(3)]
        for name in ("tp", "fp", "fn"):
            assert sum(part[name] for part in parts) == whole[name]


def test_one_to_one_by_the_greedy_loop():
    """pvs-seg-nnunet's rule, pair after pair over the whole table of common voxels."""
    rng = np.random.default_rng(3)
    predicted, true = rng.random((2, 14, 14, 14)) < 0.05
    p, r = label_clusters(predicted)[0], label_clusters(true)[0]
    table = np.zeros((p.max() + 1, r.max() + 1), int)
    np.add.at(table, (p.ravel(), r.ravel()), 1)
    table[0] = table[:, 0] = 0
    hits = 0
    while table.any():
        i, j = np.unravel_index(table.argmax(), table.shape)
        table[i] = table[:, j] = 0
        hits += 1
    assert one_to_one(Overlaps.of(p, r))["tp"] == hits > 5


def test_any_overlap_is_shivas_loop():
    """SHIVA's image_metrics: loops over the clusters of either map."""
    rng = np.random.default_rng(1)
    prediction, reference = rng.random((2, 20, 21, 22)) < 0.02
    (p, p_count), (r, r_count) = label_clusters(prediction), label_clusters(reference)
    tp = sum(prediction[r == i].any() for i in range(1, r_count + 1))
    fp = sum(not reference[p == i].any() for i in range(1, p_count + 1))
    scores = any_overlap(Overlaps.of(p, r))
    assert 0 < tp < r_count and 0 < fp < p_count
    assert (scores["tp"], scores["fp"], scores["fn"]) == (tp, fp, r_count - tp)
    sensitivity, precision = tp / r_count, tp / (tp + fp)
    assert scores["dice"] == pytest.approx(2 * sensitivity * precision / (sensitivity + precision))


@pytest.mark.parametrize("rule", [any_overlap, valdo, one_to_one])
def test_empty_masks(rule):
    nothing, something = row("...."), row(".x..")
    both = rule(overlaps(nothing, nothing))
    assert math.isnan(both["dice"]) and math.isnan(both["precision"]) and math.isnan(both["recall"])
    missed, invented = rule(overlaps(nothing, something)), rule(overlaps(something, nothing))
    assert missed["dice"] == missed["recall"] == 0 and math.isnan(missed["precision"])
    assert invented["dice"] == invented["precision"] == 0 and math.isnan(invented["recall"])


def test_case_by_region():
    # Reference A has three voxels in region 1 and one in 2; its second predicted piece one in each, a tie.
    regions = np.array([1, 1, 1, 2, 2, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0])[None, None]
    scores = evaluate_case(PREDICTION, REFERENCE, 1.0, regions, {1: "wm", 2: "bg", 3: "midbrain"})
    assert list(scores) == ["all", "wm", "bg", "midbrain"]
    every, wm, bg, midbrain = scores.values()
    assert (every["count"], every["reference_count"]) == (4, 3)
    assert (every["volume_mm3"], every["reference_volume_mm3"]) == (7, 7)
    assert (wm["count"], wm["reference_count"], wm["volume_mm3"], wm["reference_volume_mm3"]) == (2, 1, 3, 4)
    assert (bg["count"], bg["reference_count"]) == (1, 1)
    assert (wm["tp"], wm["fn"]) == (2, 1) and (bg["tp"], bg["fp"]) == (3, 1)
    assert (midbrain["count"], midbrain["reference_count"]) == (0, 0) and math.isnan(midbrain["dice"])
    assert (every["reference_count_0_to_5_mm3"], every["found_0_to_5_mm3"]) == (3, 2)
    assert wm["valdo_recall"] == wm["one_to_one_recall"] == 1 and wm["valdo_precision"] == 1 / 2


def test_a_case_with_its_surfaces_in_mm():
    """One voxel aside along an axis of 2 mm: within a voxel, not within a millimetre."""
    predicted, reference = np.zeros((2, 9, 8, 7), bool)
    reference[2, 2, 2:5] = predicted[3, 2, 2:5] = True
    regions = np.ones((9, 8, 7), int)
    regions[6:] = 2
    predicted[7, 7, 6] = True
    scores = evaluate_case(predicted, reference, 2.0, regions, {1: "wm", 2: "bg"}, axes=np.diag((2, 1, 1)))
    assert (scores["wm"]["nsd_1_voxel"], scores["wm"]["nsd_1_mm"], scores["wm"]["hd95_mm"]) == (1, 0, 2)
    assert scores["all"]["nsd_1_voxel"] == 6 / 7 and scores["bg"]["nsd_1_voxel"] == 0
    assert (scores["all"]["volume_difference_mm3"], scores["all"]["volume_difference_percent"]) == (
        2,
        pytest.approx(100 / 3),
    )
    assert (scores["all"]["count_difference"], scores["wm"]["absolute_count_difference"]) == (1, 0)
    assert math.isnan(scores["bg"]["volume_difference_percent"]) and scores["all"]["isles2022_count_difference"] == 1
    assert "valdo2021_f1" not in scores["wm"] and "nsd_1_mm" not in evaluate_case(predicted, reference, 2.0)["all"]
