"""Detection of single PVS: which reference clusters are found, which predicted ones are false.

Three published rules under their own names; all work on the table of overlaps of 26-connected clusters. They differ in
what a hit is, and their scores are not comparable.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mednext_jax.evaluate.voxel import ratio

VALDO_IOU = 0.1


@dataclasses.dataclass(frozen=True)
class Overlaps:
    """How predicted and reference clusters overlap.

    predicted_sizes (P,), reference_sizes (R,): voxels of each cluster.
    pairs (n, 3): index of a predicted cluster, of a reference cluster (from 0), and their common voxels.
    """

    predicted_sizes: np.ndarray
    reference_sizes: np.ndarray
    pairs: np.ndarray

    @classmethod
    def of(cls, predicted: np.ndarray, reference: np.ndarray) -> Overlaps:
        """From two label maps of one shape, 0 background, 1.. clusters without gaps."""
        sizes = [np.bincount(labels.ravel(), minlength=1)[1:] for labels in (predicted, reference)]
        common = (predicted > 0) & (reference > 0)
        pairs, voxels = np.unique(np.stack([predicted[common], reference[common]]), axis=1, return_counts=True)
        return cls(sizes[0], sizes[1], np.concatenate([pairs - 1, voxels[None]]).T)


def any_overlap(
    overlaps: Overlaps, predicted_chosen: np.ndarray | None = None, reference_chosen: np.ndarray | None = None
) -> dict[str, float]:
    """The rule of SHIVA-PVS (`image_metrics`), with which the PVS literature's cluster Dice is compared here.

    A reference cluster with at least one predicted voxel is found (`tp`), else missed (`fn`); a predicted cluster
    that touches no reference is false (`fp`). recall = tp / (tp + fn), precision = tp / (tp + fp), with *reference*
    clusters as tp in both, dice = 2 tp / (2 tp + fp + fn). `tp_predicted` counts the predicted clusters that touch a
    reference: it differs from `tp` where clusters split or merge.
    Boolean (P,) and (R,) choose the clusters that are counted, such as a region's; they are matched with all others.
    """
    found = np.zeros(len(overlaps.reference_sizes), bool)
    found[overlaps.pairs[:, 1]] = True
    touching = np.zeros(len(overlaps.predicted_sizes), bool)
    touching[overlaps.pairs[:, 0]] = True
    if predicted_chosen is not None:
        touching = touching[predicted_chosen]
    if reference_chosen is not None:
        found = found[reference_chosen]
    tp, fp = int(found.sum()), int((~touching).sum())
    return {**_scores(tp, fp, len(found) - tp), "tp_predicted": int(touching.sum())}


def valdo(
    overlaps: Overlaps,
    threshold: float = VALDO_IOU,
    predicted_chosen: np.ndarray | None = None,
    reference_chosen: np.ndarray | None = None,
) -> dict[str, float]:
    """The rule of the VALDO 2021 challenge (valdo-eval-2021), without its weights by rater agreement.

    Each predicted cluster belongs to the reference cluster it overlaps most; of those that belong to one reference,
    the one of the highest intersection over union is the hit if that exceeds `threshold`. All others are false.
    The chosen clusters are those of `any_overlap`. `challenges.valdo2021` repeats the challenge's program to the tie.
    """
    best: dict[int, int] = {}  # predicted -> row of its largest overlap
    for row in _largest_first(overlaps.pairs):
        best.setdefault(int(overlaps.pairs[row, 0]), row)
    hits: dict[int, tuple[float, int]] = {}  # reference -> its best predicted cluster
    for p, row in best.items():
        if (iou := _iou(overlaps, row)) > threshold:
            r = int(overlaps.pairs[row, 1])
            hits[r] = max(hits.get(r, (0.0, -1)), (iou, -p))
    return _matched(overlaps, [(-p, r) for r, (_, p) in hits.items()], predicted_chosen, reference_chosen)


def one_to_one(
    overlaps: Overlaps, predicted_chosen: np.ndarray | None = None, reference_chosen: np.ndarray | None = None
) -> dict[str, float]:
    """The rule of the package pvs-seg-nnunet: pairs are matched greedily by common voxels, each cluster once.

    The chosen clusters are those of `any_overlap`.
    """
    predicted, reference = set(), set()
    pairs = []
    for row in _largest_first(overlaps.pairs):
        p, r, _ = map(int, overlaps.pairs[row])
        if p not in predicted and r not in reference:
            predicted.add(p)
            reference.add(r)
            pairs.append((p, r))
    return _matched(overlaps, pairs, predicted_chosen, reference_chosen)


def _largest_first(pairs: np.ndarray) -> list[int]:
    return [int(row) for row in np.argsort(-pairs[:, 2], kind="stable")]


def _iou(overlaps: Overlaps, row: int) -> float:
    p, r, common = overlaps.pairs[row]
    return common / (overlaps.predicted_sizes[p] + overlaps.reference_sizes[r] - common)


def _matched(
    overlaps: Overlaps,
    pairs: Sequence[tuple[int, int]],
    predicted_chosen: np.ndarray | None,
    reference_chosen: np.ndarray | None,
) -> dict[str, float]:
    """Scores of pairs (predicted, reference); as in `any_overlap`, tp are reference clusters."""
    hit, found = np.zeros(len(overlaps.predicted_sizes), bool), np.zeros(len(overlaps.reference_sizes), bool)
    for p, r in pairs:
        hit[p] = found[r] = True
    hit = hit if predicted_chosen is None else hit[predicted_chosen]
    found = found if reference_chosen is None else found[reference_chosen]
    tp = int(found.sum())
    return _scores(tp, int((~hit).sum()), len(found) - tp)


def _scores(tp: int, fp: int, fn: int) -> dict[str, float]:
    return {
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "dice": ratio(2 * tp, 2 * tp + fp + fn),
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
    }
