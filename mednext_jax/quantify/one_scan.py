"""One scan: from its mask to the rows of its tables."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mednext_jax.errors import InputError
from mednext_jax.measure.branches import split_clusters
from mednext_jax.measure.clusters import CONNECTIVITIES, ClusterVoxels, label_clusters
from mednext_jax.measure.parcellation import (
    BASAL_GANGLIA,
    CENTRUM_SEMIOVALE,
    WHITE_MATTER,
    Parcellation,
    select,
)
from mednext_jax.measure.shape import Shapes, measure_shapes
from mednext_jax.measure.surroundings import Surroundings, find_surroundings
from mednext_jax.measure.visual_scores import WARDLAW, fullest_slice, potter_grade

WHOLE, ELSEWHERE = "whole brain", "elsewhere"
BOTH = "both"
MIDBRAIN = "midbrain"
# STRIVE: PVS are generally thinner than 3 mm, lacunes ovoid. Width / length above 0.6: Bernal et al. 2022.
LACUNE_WIDTH_MM, OVOID = 3.0, 0.6
# Voxels that a tube must be wide for its length and width to be those of the tube: docs/measures.md has the curve.
RESOLVED = 1.5
_RATED = (BASAL_GANGLIA, CENTRUM_SEMIOVALE, MIDBRAIN)


@dataclasses.dataclass(frozen=True)
class Counting:
    """What counts as one PVS. connectivity: 6, 18 or 26. Clusters below min_voxels or min_mm3 are listed, not counted.

    Five voxels is the smallest that the Frangi pipelines after Sepehrband et al. 2019 keep; SHiVAi drops up to five. On
    real scans about half of all clusters are a single voxel. split: clusters that branch are cut where they do.
    """

    connectivity: int = 26
    min_voxels: int = 5
    min_mm3: float = 0.0
    split: bool = False

    def __post_init__(self) -> None:
        if self.connectivity not in CONNECTIVITIES:
            raise InputError("The connectivity is not known.", expected="6, 18 or 26", found=self.connectivity)
        if not (self.min_voxels >= 0 and math.isfinite(self.min_mm3) and self.min_mm3 >= 0):
            found = f"{self.min_voxels} voxels, {self.min_mm3:g} mm3"
            raise InputError("The smallest size is not a size.", expected="0 or more", found=found)


@dataclasses.dataclass(frozen=True)
class Quantified:
    """The measures of one scan.

    labels: (x, y, z), the clusters as 1, 2, ...; of uint16 or int32. clusters: one row, column -> value, a cluster.
    regions: one row for the whole brain and for each region, in whole and by side. None stands for n/a.
    warnings: what is odd, as text.
    """

    labels: np.ndarray
    clusters: list[dict[str, Any]]
    regions: list[dict[str, Any]]
    warnings: tuple[str, ...] = ()

    def in_words(self) -> str:
        """Counts and volume of the whole brain, for a line of output."""
        whole = self.regions[0]
        text = f"{whole['count']} PVS, {whole['volume_mm3']:.1f} mm3"
        if whole["count_all"] > whole["count"]:
            limits = f"{whole['min_voxels']} voxels" + f" or {whole['min_mm3']:g} mm3" * (whole["min_mm3"] > 0)
            text += f" ({whole['count_all']} with those below {limits})"
        return text


def quantify_arrays(
    mask: np.ndarray,
    affine: np.ndarray,
    probability: np.ndarray | None = None,
    brain: Parcellation | None = None,
    counting: Counting = Counting(),
) -> Quantified:
    """The measures of a mask (x, y, z), true at PVS, on a grid with this `affine` (4, 4) to mm.

    probability: (x, y, z) of PVS. brain: what lies where, on any grid in the same space.
    """
    labels, count = label_clusters(mask, counting.connectivity)
    voxels = ClusterVoxels.of(labels, count, affine)
    if counting.split:
        voxels = split_clusters(voxels)
        labels[tuple(voxels.index.T)] = voxels.owner + 1
    shapes = measure_shapes(voxels)
    around = None if brain is None else find_surroundings(voxels, brain, shapes.centroid, shapes.direction)
    counted = (voxels.sizes >= counting.min_voxels) & (shapes.volume >= counting.min_mm3)
    narrow = shapes.width < RESOLVED * np.linalg.norm(affine[:3, :3], axis=0).max()
    clusters = _cluster_rows(voxels, shapes, around, probability, counted, narrow)
    about = {
        "min_voxels": counting.min_voxels,
        "min_mm3": counting.min_mm3,
        "connectivity": counting.connectivity,
        "voxel_mm3": voxels.voxel_volume,
    }
    regions = [_region_row(group, voxels, shapes, counted, narrow) | about for group in _groups(voxels, around, brain)]
    stored = labels.astype(np.uint16 if voxels.count <= np.iinfo(np.uint16).max else np.int32)
    return Quantified(stored, clusters, regions)


@dataclasses.dataclass(frozen=True)
class _Group:
    """A row of the table of regions: its clusters (count,) boolean, its volume in mm3 (NaN: not known).

    sides: those of its clusters that a rater would count together.
    """

    region: str
    hemisphere: str | None
    members: np.ndarray
    volume: float
    sides: tuple[np.ndarray, ...] = ()


def _groups(voxels: ClusterVoxels, around: Surroundings | None, brain: Parcellation | None) -> list[_Group]:
    everything = np.ones(voxels.count, bool)
    if around is None or brain is None:
        return [_Group(WHOLE, BOTH, everything, math.nan)]
    volumes = brain.volumes(voxels.shape, voxels.affine)
    fluid = select(brain.structures, tissue="csf") | select(brain.structures, tissue="ventricle")
    fluid[0] = True
    groups = [_Group(WHOLE, BOTH, everything, float(volumes[~fluid].sum()))]

    def add(name: str, members: np.ndarray, structures: np.ndarray) -> None:
        """The row of all of a region, and those of its sides."""
        sides = sorted({s.hemisphere for s, there in zip(brain.structures, structures, strict=True) if there} - {""})
        by_side = tuple(members & (hemispheres == side) for side in sides)
        groups.append(
            _Group(name, BOTH if sides else None, members, float(volumes[structures].sum()), by_side or (members,))
        )
        for side, theirs in zip(sides, by_side, strict=True):
            here = structures & select(brain.structures, hemisphere=side)
            groups.append(_Group(name, side, theirs, float(volumes[here].sum()), (theirs,)))

    regions = np.array([region for region, _ in around.regions], object)
    hemispheres = np.array([side for _, side in around.regions], object)
    lobes, parts = np.array(around.lobes, object), np.array(around.parts, object)
    for region in sorted({s.region for s in brain.structures} - {""}):
        add(region, regions == region, select(brain.structures, region=region))
        if region == WHITE_MATTER:
            for part in sorted({s.part for s in brain.structures} - {""}):
                add(part, parts == part, select(brain.structures, part=part))
            for lobe in sorted({s.lobe for s in brain.structures} - {""}):
                add(f"{WHITE_MATTER}, {lobe}", lobes == lobe, select(brain.structures, lobe=lobe))
    groups.append(_Group(ELSEWHERE, None, regions == "", math.nan))
    return groups


def _region_row(
    group: _Group, voxels: ClusterVoxels, shapes: Shapes, counted: np.ndarray, narrow: np.ndarray
) -> dict[str, Any]:
    chosen = group.members & counted
    count = int(chosen.sum())
    volume = float(shapes.volume[chosen].sum())
    of = group.volume if group.volume > 0 else math.nan
    return {
        "region": group.region,
        "hemisphere": group.hemisphere,
        "count": count,
        "count_all": int(group.members.sum()),
        "count_below_resolution": int((chosen & narrow).sum()),
        "volume_mm3": volume,
        "volume_all_mm3": float(shapes.volume[group.members].sum()),
        "region_volume_mm3": _known(group.volume),
        "fraction": _known(volume / of),
        "density_per_ml": _known(1000 * count / of),
        "volume_mean_mm3": volume / count if count else None,
        "volume_median_mm3": float(np.median(shapes.volume[chosen])) if count else None,
        "volume_max_mm3": float(shapes.volume[chosen].max()) if count else None,
        "length_total_mm": float(shapes.length[chosen].sum()),
        "length_mean_mm": float(shapes.length[chosen].mean()) if count else None,
        "width_mean_mm": float(shapes.width[chosen].mean()) if count else None,
        **_visual_score(group, voxels, chosen),
    }


def _visual_score(group: _Group, voxels: ClusterVoxels, chosen: np.ndarray) -> dict[str, Any]:
    if group.region not in _RATED:
        return {"potter": None, "wardlaw": None, "slice_count": None, "slice_z_mm": None}
    fullest = max((fullest_slice(voxels, chosen & side) for side in group.sides), key=lambda found: found.count)
    if group.region == MIDBRAIN:
        grade = min(int(chosen.sum()), 1)
        word = ("none", "present")[grade]
    else:
        grade = potter_grade(fullest.count)
        word = WARDLAW[grade]
    return {"potter": grade, "wardlaw": word, "slice_count": fullest.count, "slice_z_mm": _known(fullest.z)}


def _cluster_rows(
    voxels: ClusterVoxels,
    shapes: Shapes,
    around: Surroundings | None,
    probability: np.ndarray | None,
    counted: np.ndarray,
    narrow: np.ndarray,
) -> list[dict[str, Any]]:
    """Rows in the order of the columns of CLUSTERS."""
    count = voxels.count
    nothing: list[Any] = [None] * count
    if probability is None or not count:
        mean, largest = nothing, nothing
    else:
        values = probability[tuple(voxels.index.T)].astype(np.float64)
        mean, largest = voxels.means(values).tolist(), np.maximum.reduceat(values, voxels.starts[:-1]).tolist()
    lacune = (shapes.width > LACUNE_WIDTH_MM) & (shapes.width > OVOID * shapes.length)
    table: dict[str, Sequence[Any]] = {
        "cluster": range(1, count + 1),
        "region": nothing if around is None else [region or ELSEWHERE for region, _ in around.regions],
        "hemisphere": nothing if around is None else [side or None for _, side in around.regions],
        "lobe": nothing if around is None else [lobe or None for lobe in around.lobes],
        "part": nothing if around is None else [part or None for part in around.parts],
        "region_tie": nothing if around is None else around.tied.astype(int).tolist(),
        **{f"{axis}_mm": shapes.centroid[:, i].tolist() for i, axis in enumerate("xyz")},
        "voxels": voxels.sizes.tolist(),
        "volume_mm3": shapes.volume.tolist(),
        "length_mm": shapes.length.tolist(),
        "width_mm": shapes.width.tolist(),
        "width_max_mm": shapes.width_max.tolist(),
        "linearity": shapes.linearity.tolist(),
        "tortuosity": shapes.tortuosity.tolist(),
        **{f"direction_{axis}": shapes.direction[:, i].tolist() for i, axis in enumerate("xyz")},
        "angle_to_ventricle_normal_deg": nothing if around is None else [_known(x) for x in around.from_normal],
        "probability_mean": mean,
        "probability_max": largest,
        "distance_to_ventricles_mm": nothing if around is None else [_known(x) for x in around.to_ventricles],
        "length_edinburgh_mm": shapes.edinburgh_length.tolist(),
        "width_edinburgh_mm": shapes.edinburgh_width.tolist(),
        "counted": counted.astype(int).tolist(),
        "below_resolution": narrow.astype(int).tolist(),
        "possible_lacune": lacune.astype(int).tolist(),
        "touches_csf_or_cortex": nothing if around is None else around.touches.astype(int).tolist(),
    }
    return [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
