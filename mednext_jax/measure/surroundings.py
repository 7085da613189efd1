"""Where clusters lie in a parcellated brain: their region, their way to the ventricles, what they touch."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np

from mednext_jax.measure.clusters import ClusterVoxels, vote
from mednext_jax.measure.parcellation import NOWHERE, Parcellation, Structure, select


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """One entry a cluster. regions, lobes, parts: most of its voxels' (part: "centrum semiovale" or "").

    tied: whether two regions held as many voxels; the one whose name comes first is taken. to_ventricles: mm between
    the nearest voxel centres of cluster and ventricles; from_normal: degrees between the axis and the way from
    its centre to the nearest point of the ventricles, which is normal to their surface there (NaN: no ventricles in the
    map). touches: whether a voxel of it lies in cortex or fluid outside the ventricles, or beside one that does.
    """

    regions: list[tuple[str, str]]  # (region, hemisphere)
    lobes: list[str]
    parts: list[str]
    tied: np.ndarray
    to_ventricles: np.ndarray
    from_normal: np.ndarray
    touches: np.ndarray


def find_surroundings(
    voxels: ClusterVoxels, brain: Parcellation, centroid: np.ndarray, direction: np.ndarray
) -> Surroundings:
    """The surroundings of all clusters with these centres (count, 3) in mm and axes (count, 3), unit."""
    codes = brain.codes_at(voxels.points)
    regions, tied = _most(voxels, codes, brain, lambda s: (s.region, s.hemisphere))
    to_ventricles = np.full(voxels.count, np.nan)
    from_normal = to_ventricles.copy()
    tree = brain.ventricles() if voxels.count else None
    if tree is not None:
        nearest, _ = tree.query(voxels.points)
        to_ventricles = np.minimum.reduceat(nearest, voxels.starts[:-1])
        distance, which = tree.query(centroid)
        cosine = np.abs(((tree.data[which] - centroid) * direction).sum(1)) / np.maximum(distance, 1e-9)
        from_normal = np.where(distance > 0, np.degrees(np.arccos(np.clip(cosine, 0, 1))), np.nan)
    outer = select(brain.structures, tissue="cortex") | select(brain.structures, tissue="csf")
    beside = np.zeros(len(codes), bool)
    for offset in itertools.product((-1, 0, 1), repeat=3) if outer.any() else ():
        beside |= outer[brain.codes_at(voxels.points + voxels.affine[:3, :3] @ offset)]
    return Surroundings(
        regions=regions,
        lobes=_within(voxels, codes, brain, lambda s: s.lobe),
        parts=_within(voxels, codes, brain, lambda s: s.part),
        tied=tied,
        to_ventricles=to_ventricles,
        from_normal=from_normal,
        touches=np.bincount(voxels.owner, beside, voxels.count) > 0,
    )


def _within(
    voxels: ClusterVoxels, codes: np.ndarray, brain: Parcellation, key: Callable[[Structure], str]
) -> list[str]:
    """The lobe or part; voxels of regions without one vote for none."""
    winners = _most(voxels, codes, brain, lambda s: (key(s), "" if key(s) else s.region))[0]
    return [name for name, _ in winners]


def _most(
    voxels: ClusterVoxels, codes: np.ndarray, brain: Parcellation, key: Callable[[Structure], tuple[str, str]]
) -> tuple[list[tuple[str, str]], np.ndarray]:
    """What most of each cluster's voxels have of something; those that have nothing of it do not vote."""
    nothing = key(NOWHERE)
    keys = sorted({key(s) for s in brain.structures if s.region or key(s) == nothing} - {nothing})
    values = np.array([1 + keys.index(key(s)) if s.region and key(s) != nothing else 0 for s in brain.structures])
    winners, tied = vote(voxels.owner, voxels.count, values[codes])
    return [([nothing, *keys])[i] for i in winners], tied
