"""What can be measured on real scans without labels: painted recall, misplaced clusters, agreement, lesions.

Everything takes arrays (x, y, z) on one scan's grid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from nibabel.affines import voxel_sizes
from scipy import ndimage

from mednext_jax.measure.clusters import label_clusters
from mednext_jax.measure.parcellation import Parcellation
from mednext_jax.simulate.painting import PaintedScan, codes_on

EDGE_MM = DEEP_MM = 2.0
VOLUMES = (("below_5", 0, 5), ("5_to_15", 5, 15), ("above_15", 15, np.inf))  # mm3
STRENGTHS = (("weak", 0, 0.4), ("middle", 0.4, 0.6), ("strong", 0.6, 1.01))  # below 0.4, 0.4 to 0.6, above 0.6
# A tube is found if the mask has one of the voxels that it fills by this share or more, or the one that it fills most.
FILLED = 0.25
_SHIFTS = 20


@dataclasses.dataclass(frozen=True)
class Tissue:
    """Where perivascular spaces may lie. inside: white matter, basal ganglia, other nuclei, hippocampus, brainstem.

    wrong: certainly no place of theirs: cortex, cerebellum, sulci, ventricles, outside of the brain, and the brain's
    outer 2 mm. deep: more than 2 mm inside `inside`.
    """

    inside: np.ndarray
    wrong: np.ndarray
    deep: np.ndarray

    @classmethod
    def of(cls, brain: Parcellation, image: np.ndarray, affine: np.ndarray) -> Tissue:
        """The tissue of a scan from its region map; the brain is what is not 0 in the scan and lies in the map."""
        spacing = voxel_sizes(affine)
        codes = codes_on(brain, image.shape, affine)
        may = np.array([bool(s.region) and s.region != "cerebellum" for s in brain.structures])
        head = ndimage.binary_fill_holes((image != 0) & ndimage.binary_closing(codes > 0, iterations=2))
        inside = may[codes] & head
        edge = ndimage.distance_transform_edt(np.pad(head, 1), sampling=spacing)[1:-1, 1:-1, 1:-1] <= EDGE_MM
        depth = ndimage.distance_transform_edt(np.pad(inside, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
        return cls(inside, ~inside | edge, depth > DEEP_MM)


@dataclasses.dataclass(frozen=True)
class Found:
    """The clusters of a mask, and of each whether at least half of its voxels are misplaced, deep, in lesions."""

    labels: np.ndarray
    misplaced: np.ndarray  # (count,) boolean
    deep: np.ndarray
    in_lesions: np.ndarray | None  # None: no lesion mask

    @property
    def count(self) -> int:
        return len(self.misplaced)

    def shares(self) -> dict[str, float]:
        """The shares of the clusters; NaN of none."""
        parts = {"misplaced": self.misplaced, "not_deep": ~self.deep, "in_lesions": self.in_lesions}
        return {n: float("nan") if p is None or not len(p) else float(p.mean()) for n, p in parts.items()}


def find(mask: np.ndarray, tissue: Tissue, lesions: np.ndarray | None = None, min_voxels: int = 1) -> Found:
    """The 26-connected clusters of `mask` of at least `min_voxels`."""
    labels, count = label_clusters(mask)
    at = np.flatnonzero(labels)
    owner = labels.reshape(-1)[at]
    size = np.bincount(owner, minlength=count + 1)
    keep = size >= max(min_voxels, 1)
    keep[0] = False
    number = np.cumsum(keep) * keep
    labels.reshape(-1)[at] = number[owner]

    def share(where: np.ndarray) -> np.ndarray:
        return (np.bincount(owner, where.reshape(-1)[at], count + 1)[keep] / size[keep]) >= 0.5

    of_lesions = None if lesions is None else share(lesions)
    return Found(labels, share(tissue.wrong), share(tissue.deep), of_lesions)


def hit(mask: np.ndarray, painted: PaintedScan) -> np.ndarray:
    """Which tubes (tubes,) a mask finds."""
    flat = mask.reshape(-1)
    return np.array([bool(flat[_core(*tube)].any()) for tube in painted.touched], bool)


def _core(cells: np.ndarray, share: np.ndarray) -> np.ndarray:
    return cells[(share >= FILLED) | (share == share.max(initial=0))]


def recalls(found: np.ndarray, painted: PaintedScan) -> dict[str, float]:
    """The share of tubes that are found (tubes,): of all, and by volume and strength; NaN of none."""
    volume = np.array([one.tube.volume for one in painted.placed])
    parts = {"recall": np.ones(len(found), bool)}
    for values, kinds in ((volume, VOLUMES), (painted.strength, STRENGTHS)):
        parts |= {f"recall_{name}": (values >= low) & (values < high) for name, low, high in kinds}
    return {name: float(found[part].mean()) if part.any() else float("nan") for name, part in parts.items()}


def agreement(one: Found, other: Found, tissue: Tissue, rng: np.random.Generator) -> dict[str, float]:
    """How many clusters of one contrast are at the place of another's: shares each way, and by chance.

    Of clusters that are not misplaced, since sulci are at one place in every contrast. A cluster agrees if it shares a
    voxel with the other mask grown by one voxel. Chance: each cluster moved, as it is, to a random place whose middle
    is inside the tissue; the mean of 20 draws. ratio: of both ways' means; NaN without clusters, infinite if chance
    never hits.
    """
    there, by_chance = [], []
    places = np.argwhere(tissue.inside & ~tissue.wrong)
    for these, those in ((one, other), (other, one)):
        kept = np.flatnonzero(~these.misplaced) + 1
        target = np.isin(those.labels, np.flatnonzero(~those.misplaced) + 1)
        target = ndimage.binary_dilation(target, np.ones((3, 3, 3)))
        boxes = ndimage.find_objects(these.labels)
        voxels = []
        for label in kept:
            box = boxes[label - 1]
            voxels.append(np.argwhere(these.labels[box] == label) + [s.start for s in box])
        if not voxels or not len(places):
            there.append(float("nan"))
            by_chance.append(float("nan"))
            continue
        there.append(float(np.mean([target[tuple(v.T)].any() for v in voxels])))
        hits = 0
        for v in voxels:
            for place in places[rng.integers(len(places), size=_SHIFTS)]:
                moved = v - v[len(v) // 2] + place
                moved = moved[((moved >= 0) & (moved < target.shape)).all(1)]
                hits += bool(target[tuple(moved.T)].any())
        by_chance.append(hits / (_SHIFTS * len(voxels)))
    mean, chance = float(np.mean(there)), float(np.mean(by_chance))
    ratio = mean / chance if chance > 0 else (float("inf") if mean > 0 else float("nan"))
    return {"there": there[0], "back": there[1], "mean": mean, "shifted": chance, "ratio": ratio}


@dataclasses.dataclass(frozen=True)
class Point:
    """One threshold of a curve: the clusters of the untouched scan, and the recall of the painted tubes."""

    threshold: float
    count: int
    shares: dict[str, float]
    recalls: dict[str, float]


def curve(
    probability: np.ndarray,
    of_painted: np.ndarray,
    painted: PaintedScan,
    tissue: Tissue,
    lesions: np.ndarray | None,
    thresholds: Sequence[float],
    min_voxels: int = 1,
) -> list[Point]:
    """The measures of one scan at each threshold, from its probabilities untouched and painted."""
    points = []
    for threshold in thresholds:
        found = find(probability > threshold, tissue, lesions, min_voxels)
        mask = of_painted > threshold
        if min_voxels > 1:
            mask = find(mask, tissue, min_voxels=min_voxels).labels > 0
        points.append(Point(threshold, found.count, found.shares(), recalls(hit(mask, painted), painted)))
    return points


def at_count(points: Sequence[Point], count: int) -> Point | None:
    """The lowest threshold from which on the untouched scan never has more than `count` clusters; None if none."""
    best = None
    for point in sorted(points, key=lambda p: -p.threshold):
        if point.count > count:
            break
        best = point
    return best
