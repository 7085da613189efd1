"""The scores of one scan, whole and by region."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mednext_jax.evaluate.centreline import Centrelines
from mednext_jax.evaluate.challenges import challenge_scores
from mednext_jax.evaluate.cluster import Overlaps, any_overlap, one_to_one, valdo
from mednext_jax.evaluate.surface import SurfaceDistances
from mednext_jax.evaluate.voxel import ratio, voxel_metrics
from mednext_jax.measure.clusters import cluster_regions, label_clusters
from mednext_jax.measure.regions import WHOLE

# mm3; SHIVA-PVS (Boutinaud 2021) finds PVS hard to detect below 10 mm3 and easy above 15.
VOLUME_BINS = ((0, 5), (5, 10), (10, 15), (15, None))

RATIOS = ("dice", "precision", "recall")

Scores = dict[str, float]


def evaluate_case(
    prediction: np.ndarray,
    reference: np.ndarray,
    voxel_mm3: float,
    regions: np.ndarray | None = None,
    names: Mapping[int, str] | None = None,
    ignore_label: int | None = None,
    axes: np.ndarray | None = None,
) -> dict[str, Scores]:
    """Scores of a predicted mask against a reference, both 3D of one shape, foreground > 0.

    voxel_mm3: of one voxel (`voxel_volume`). Where the reference holds `ignore_label`, neither mask counts: clusters
    end there, as they do at the scan's border.
    Returns {"all": scores, region: scores, ...}, regions from the integer map `regions` and its `names`. A region's
    voxel scores are those of the voxels in it; a cluster, its count and its volume belong to the region with most of
    its voxels (`cluster_regions`), and it is matched with clusters of every region, so that a border cuts none in two.
    Scores: dice, precision, recall (`voxel_metrics`), cluster_* (`any_overlap`), volume_mm3, reference_volume_mm3,
    count, reference_count, valdo_* and one_to_one_* (dice, precision, recall); for "all" also for each volume bin of
    reference clusters their count and how many are found. NaN stands for 0 / 0.
    axes (3, 3): what a step along each array axis goes in mm, in columns (of the affine). With it come the scores of
    the surfaces (`SurfaceDistances`) and, with scikit-image, cl_dice (`Centrelines`): of a region those surface and
    centreline voxels in it, against the other mask everywhere; volume_difference_mm3 and count_difference (prediction -
    reference), their absolute values, volume_difference_percent of the reference; for "all" also `challenge_scores`.
    """
    counted = np.True_ if ignore_label is None else reference != ignore_label
    predicted, true = (prediction > 0) & counted, (reference > 0) & counted
    masks = [label_clusters(predicted), label_clusters(true)]
    overlaps = Overlaps.of(masks[0][0], masks[1][0])
    every = [np.ones(count, bool) for _, count in masks]
    scores = {WHOLE: _scores(predicted, true, overlaps, every[0], every[1], voxel_mm3)}
    scores[WHOLE] |= _by_volume(overlaps, voxel_mm3)
    if regions is not None:
        places = [cluster_regions(labels, count, regions) for labels, count in masks]
        for value, name in (names or {}).items():
            inside = regions == value
            chosen = [place == value for place in places]
            scores[name] = _scores(predicted & inside, true & inside, overlaps, chosen[0], chosen[1], voxel_mm3)
    if axes is not None:
        surfaces = SurfaceDistances.of(predicted, true, axes)
        lines = Centrelines.of(predicted, true)
        scores[WHOLE] |= challenge_scores(predicted, true, overlaps, lines, voxel_mm3)
        values = {name: value for value, name in (names or {}).items()}
        for name, found in scores.items():
            place = None if name == WHOLE or regions is None else regions == values[name]
            found |= surfaces.scores(place) | _differences(found)
            if lines is not None:
                found["cl_dice"] = lines.cl_dice(place)
    return scores


def _scores(
    predicted: np.ndarray,
    true: np.ndarray,
    overlaps: Overlaps,
    predicted_chosen: np.ndarray,
    reference_chosen: np.ndarray,
    voxel_mm3: float,
) -> Scores:
    clusters = any_overlap(overlaps, predicted_chosen, reference_chosen)
    others = {
        "valdo": valdo(overlaps, predicted_chosen=predicted_chosen, reference_chosen=reference_chosen),
        "one_to_one": one_to_one(overlaps, predicted_chosen, reference_chosen),
    }
    return {
        **voxel_metrics(predicted, true),
        **{f"cluster_{name}": value for name, value in clusters.items()},
        "volume_mm3": float(overlaps.predicted_sizes[predicted_chosen].sum() * voxel_mm3),
        "reference_volume_mm3": float(overlaps.reference_sizes[reference_chosen].sum() * voxel_mm3),
        "count": int(predicted_chosen.sum()),
        "reference_count": int(reference_chosen.sum()),
        **{f"{rule}_{name}": found[name] for rule, found in others.items() for name in RATIOS},
    }


def _differences(scores: Scores) -> Scores:
    volume = scores["volume_mm3"] - scores["reference_volume_mm3"]
    count = scores["count"] - scores["reference_count"]
    return {
        "volume_difference_mm3": volume,
        "absolute_volume_difference_mm3": abs(volume),
        "volume_difference_percent": ratio(100 * volume, scores["reference_volume_mm3"]),
        "count_difference": count,
        "absolute_count_difference": abs(count),
    }


def _by_volume(overlaps: Overlaps, voxel_mm3: float) -> Scores:
    """Counts of reference clusters, and of those found, for each bin of their volume."""
    volume = overlaps.reference_sizes * voxel_mm3
    found = np.zeros(len(volume), bool)
    found[overlaps.pairs[:, 1]] = True
    scores: Scores = {}
    for low, high in VOLUME_BINS:
        inside = (volume >= low) & (volume < (np.inf if high is None else high))
        name = f"{low}_to_{high}_mm3" if high else f"from_{low}_mm3"
        scores |= {f"reference_count_{name}": int(inside.sum()), f"found_{name}": int((found & inside).sum())}
    return scores
