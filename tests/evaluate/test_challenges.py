"""Known answers, made with the programs of VALDO 2021 and EPVS 2024 and with the rule of ISLES 2022."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from mednext_jax.evaluate.centreline import Centrelines
from mednext_jax.evaluate.challenges import challenge_scores, dora2026, epvs2024, isles2022, valdo2021
from mednext_jax.evaluate.cluster import Overlaps
from mednext_jax.measure.clusters import label_clusters

pytestmark = pytest.mark.core


def column(*parts):
    """Segments (first, last), both included, along one line of a volume."""
    mask = np.zeros((5, 5, 32), bool)
    for first, last in parts:
        mask[2, 2, first : last + 1] = True
    return mask


# reference, prediction; EPVS recall and precision; VALDO f1, dice, count and volume difference; ISLES F1; voxel Dice.
NAN = math.nan
CASES = {
    "bridge": (((0, 3), (6, 9), (12, 13)), ((2, 6), (20, 21)), (2 / 3, 1.0), (0.4, 0.4444, 1, 3), 2 / 3, 0.3529),
    "split": (((0, 9),), ((0, 2), (5, 7)), (1, 0.5), (1, 0.75, 1, 4), 1, 0.75),
    "graze": (((0, 19), (25, 28)), ((19, 22), (25, 28)), (1, 1), (0.6667, 1, 0, 16), 1, 0.3125),
    "nothing predicted": (((0, 3),), (), (0, 0), (0, 0, 1, 4), 0, 0),
    "nothing to find": ((), ((0, 3),), (0, 0), (NAN, NAN, 1, 4), 0, 0),
    "both empty": ((), (), (0, 0), (NAN, NAN, 0, 0), 1, 1),
}


@pytest.mark.parametrize("name", CASES)
def test_answers_of_the_challenges_programs(name):
    reference, prediction, epvs, valdo, isles, dice = CASES[name]
    predicted, true = column(*prediction), column(*reference)
    overlaps = Overlaps.of(label_clusters(predicted)[0], label_clusters(true)[0])
    assert list(valdo2021(overlaps).values()) == pytest.approx(valdo, abs=1e-4, nan_ok=True)
    found = epvs2024(overlaps)
    assert (found["recall"], found["precision"]) == pytest.approx(epvs, abs=1e-4)
    found = isles2022(overlaps, 2.0)
    assert (found["lesion_f1"], found["dice"]) == pytest.approx((isles, dice), abs=1e-4)
    assert found["avd_ml"] == pytest.approx(valdo[3] * 2 / 1000) and found["count_difference"] == valdo[2]


def test_epvs_volume_difference_is_at_most_one():
    for prediction, avd in ((((0, 4),), 0.5), (((0, 30),), 1), ((), 1)):
        overlaps = Overlaps.of(label_clusters(column(*prediction))[0], label_clusters(column((0, 9)))[0])
        assert epvs2024(overlaps)["avd"] == avd
    nothing = label_clusters(column())[0]
    assert epvs2024(Overlaps.of(label_clusters(column((0, 1)))[0], nothing))["avd"] == 1
    assert epvs2024(Overlaps.of(nothing, nothing))["avd"] == 0


def test_valdo_is_its_loop_on_random_masks():
    """Clusters assigned one by one with masks, as the challenge's program does."""
    rng = np.random.default_rng(0)
    predicted, true = rng.random((2, 16, 16, 16)) < 0.03
    true[4:7, 4:7, 4:9] = predicted[4:7, 5:8, 3:8] = True
    (p, p_count), (r, r_count) = label_clusters(predicted), label_clusters(true)
    assigned: dict = {}
    for i in range(1, p_count + 1):
        common = np.bincount(r[p == i], minlength=r_count + 1)[1:]
        if common.any():
            assigned.setdefault(int(common.argmax()) + 1, []).append(i)
    hits, dices = 0, []
    for j, mine in assigned.items():
        iou = [((p == i) & (r == j)).sum() / ((p == i) | (r == j)).sum() for i in mine]
        if max(iou) > 0.1:
            hits += sum(value == max(iou) for value in iou)
            union = np.isin(p, mine)
            dices.append(2 * (union & (r == j)).sum() / (union.sum() + (r == j).sum()))
    f1 = 2 * hits / ((r_count - len(assigned)) + (p_count - hits) + 2 * hits)
    found = valdo2021(Overlaps.of(p, r))
    assert 0 < f1 < 1 and found["f1"] == pytest.approx(f1, abs=1e-6)
    assert found["dice"] == pytest.approx(np.mean(dices), abs=1e-6)


def test_dora_counts_clusters_of_shared_faces():
    predicted, true = np.zeros((2, 6, 6, 6), bool)
    true[1, 1, 1] = true[2, 2, 2] = True  # one cluster of 26, two of 6
    predicted[1, 1, 1] = True
    assert ndimage.label(true)[1] == 2
    assert dora2026(predicted, true, None) == {"lesion_dice": pytest.approx(2 / 3)}
    nothing = np.zeros_like(true)
    assert dora2026(nothing, nothing, None)["lesion_dice"] == 1


def test_all_together_have_their_challenge_s_name():
    predicted, true = column((0, 3)), column((2, 5))
    overlaps = Overlaps.of(label_clusters(predicted)[0], label_clusters(true)[0])
    lines = Centrelines.of(predicted, true)
    scores = challenge_scores(predicted, true, overlaps, lines, 1.0)
    assert {name.partition("_")[0] for name in scores} == {"valdo2021", "epvs2024", "isles2022", "dora2026"}
    assert ("dora2026_cl_dice" in scores) == (lines is not None)
