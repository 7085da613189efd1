"""Scores as the programs of four challenges compute them, to the tie, so that a laboratory can quote them.

Each has the challenge's own answer for empty masks. They differ from each other and from `cluster.py`; the known
answers in the tests were made with the challenges' own programs.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from mednext_jax.evaluate.centreline import Centrelines
from mednext_jax.evaluate.cluster import VALDO_IOU, Overlaps, any_overlap
from mednext_jax.evaluate.voxel import ratio


def challenge_scores(
    predicted: np.ndarray,
    reference: np.ndarray,
    overlaps: Overlaps,
    centrelines: Centrelines | None,
    voxel_mm3: float,
) -> dict[str, float]:
    """The four below for boolean masks of one shape, and the overlaps of their 26-connected clusters."""
    scores = {
        "valdo2021": valdo2021(overlaps),
        "epvs2024": epvs2024(overlaps),
        "isles2022": isles2022(overlaps, voxel_mm3),
        "dora2026": dora2026(predicted, reference, centrelines),
    }
    return {f"{challenge}_{name}": value for challenge, found in scores.items() for name, value in found.items()}


def valdo2021(overlaps: Overlaps) -> dict[str, float]:
    """Task 1 of VALDO 2021 (valdo-eval-2021) for one rater: f1, dice, count_difference, volume_difference (voxels).

    As `cluster.valdo`, but predictions that tie for a reference's best intersection over union are all hits, and only a
    reference that no prediction belongs to is missed (one that is grazed, at most at `VALDO_IOU`, is neither found nor
    missed). dice: mean over the found references of the Dice with the union of all predictions that belong to it; 0
    if none is found. Empty reference: f1 and dice NaN; empty prediction: 0.
    """
    predicted, reference = overlaps.predicted_sizes, overlaps.reference_sizes
    belongs: dict[int, dict[int, int]] = {}  # reference -> {predicted: common voxels}
    largest = np.lexsort((-overlaps.pairs[:, 2], overlaps.pairs[:, 0]))
    for row in largest[np.unique(overlaps.pairs[largest, 0], return_index=True)[1]]:
        p, r, common = map(int, overlaps.pairs[row])
        belongs.setdefault(r, {})[p] = common
    hits, dices = 0, []
    for r, mine in belongs.items():
        iou = [common / (predicted[p] + reference[r] - common) for p, common in mine.items()]
        if max(iou) > VALDO_IOU:
            hits += iou.count(max(iou))
            dices.append(2 * sum(mine.values()) / (sum(int(predicted[p]) for p in mine) + int(reference[r])))
    missed = len(reference) - len(belongs)
    return {
        "f1": ratio(2 * hits, missed + (len(predicted) - hits) + 2 * hits) if len(reference) else math.nan,
        "dice": (float(np.mean(dices)) if dices else 0.0) if len(reference) else math.nan,
        "count_difference": abs(len(predicted) - len(reference)),
        "volume_difference": abs(int(predicted.sum()) - int(reference.sum())),
    }


def epvs2024(overlaps: Overlaps) -> dict[str, float]:
    """EPVS 2024 (hzlab/EPVS_challenge): recall, precision, avd.

    precision = reference clusters found / predicted clusters, above 1 where one prediction covers several references.
    avd: volume difference relative to the reference, at most 1, and 1 for an empty reference with a prediction. Recall
    and precision of nothing are 0. The challenge cuts both masks by region before it labels them; here they are whole.
    """
    found = any_overlap(overlaps)["tp"]
    predicted, reference = int(overlaps.predicted_sizes.sum()), int(overlaps.reference_sizes.sum())
    return {
        "recall": found / len(overlaps.reference_sizes) if reference else 0.0,
        "precision": found / len(overlaps.predicted_sizes) if predicted else 0.0,
        "avd": min(1.0, abs(predicted - reference) / reference) if reference else float(predicted > 0),
    }


def isles2022(overlaps: Overlaps, voxel_mm3: float) -> dict[str, float]:
    """ISLES 2022: dice and lesion_f1 (any overlap), both 1 if both masks are empty, avd_ml, count_difference."""
    lesions = any_overlap(overlaps)["dice"]
    predicted, reference = int(overlaps.predicted_sizes.sum()), int(overlaps.reference_sizes.sum())
    dice = ratio(2 * int(overlaps.pairs[:, 2].sum()), predicted + reference)
    return {
        "dice": 1.0 if math.isnan(dice) else dice,
        "lesion_f1": 1.0 if math.isnan(lesions) else lesions,
        "avd_ml": abs(predicted - reference) * voxel_mm3 / 1000,
        "count_difference": abs(len(overlaps.predicted_sizes) - len(overlaps.reference_sizes)),
    }


def dora2026(predicted: np.ndarray, reference: np.ndarray, centrelines: Centrelines | None) -> dict[str, float]:
    """DoRA-PVS 2026: lesion_dice (any overlap of 6-connected clusters) and cl_dice, both 1 if both masks are empty.

    Without centrelines, no cl_dice. The challenge's third score, the area under the precision-recall curve, needs
    probabilities: `average_precision`.
    """
    dice = any_overlap(Overlaps.of(ndimage.label(predicted)[0], ndimage.label(reference)[0]))["dice"]
    scores = {"lesion_dice": 1.0 if math.isnan(dice) else dice}
    if centrelines is not None:
        both_empty = not (predicted.any() or reference.any())
        scores["cl_dice"] = 1.0 if both_empty else centrelines.cl_dice()
    return scores
