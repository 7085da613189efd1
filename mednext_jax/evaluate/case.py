"""The scores of one scan, whole and by region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mednext_jax.evaluate.cluster import Overlaps, any_overlap, one_to_one, valdo
from mednext_jax.evaluate.voxel import voxel_metrics
from mednext_jax.measure.clusters import cluster_regions, label_clusters
from mednext_jax.measure.regions import WHOLE

# mm3; SHIVA-PVS (Boutinaud 2021) finds PVS hard to detect below 10 mm3 and easy above 15.
VOLUME_BINS = ((0, 5), (5, 10), (10, 15), (15, None))

Scores = dict[str, float]


def evaluate_case(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: Sequence[float],
    regions: np.ndarray | None = None,
    names: Mapping[int, str] | None = None,
    ignore_label: int | None = None,
) -> dict[str, Scores]:
    """Scores of a predicted mask against a reference, both 3D of one shape, foreground > 0; spacing in mm.

    Where the reference holds `ignore_label`, neither mask counts: clusters end there, as they do at the scan's border.
    Returns {"all": scores, region: scores, ...}, regions from the integer map `regions` and its `names`. A region's
    voxel scores are those of the voxels in it; a cluster, its count and its volume belong to the region with most of
    its voxels (`cluster_regions`), and it is matched with clusters of every region, so that a border cuts none in two.
    Scores: dice, precision, recall (`voxel_metrics`), cluster_* (`any_overlap`), volume_mm3, reference_volume_mm3,
    count, reference_count; for "all" also valdo_dice and one_to_one_dice, and for each volume bin of reference clusters
    their count and how many are found. NaN stands for 0 / 0.
    """
    counted = np.True_ if ignore_label is None else reference != ignore_label
    predicted, true = (prediction > 0) & counted, (reference > 0) & counted
    masks = [label_clusters(predicted), label_clusters(true)]
    overlaps = Overlaps.of(masks[0][0], masks[1][0])
    voxel = float(np.prod(spacing))
    every = [np.ones(count, bool) for _, count in masks]
    scores = {WHOLE: _scores(predicted, true, overlaps, every[0], every[1], voxel)}
    scores[WHOLE] |= {"valdo_dice": valdo(overlaps)["dice"], "one_to_one_dice": one_to_one(overlaps)["dice"]}
    scores[WHOLE] |= _by_volume(overlaps, voxel)
    if regions is not None:
        places = [cluster_regions(labels, count, regions) for labels, count in masks]
        for value, name in (names or {}).items():
            inside = regions == value
            chosen = [place == value for place in places]
            scores[name] = _scores(predicted & inside, true & inside, overlaps, chosen[0], chosen[1], voxel)
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
    return {
        **voxel_metrics(predicted, true),
        **{f"cluster_{name}": value for name, value in clusters.items()},
        "volume_mm3": float(overlaps.predicted_sizes[predicted_chosen].sum() * voxel_mm3),
        "reference_volume_mm3": float(overlaps.reference_sizes[reference_chosen].sum() * voxel_mm3),
        "count": int(predicted_chosen.sum()),
        "reference_count": int(reference_chosen.sum()),
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
