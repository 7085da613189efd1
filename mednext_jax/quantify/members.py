"""What the members of an ensemble find one by one, each model with each mirror: how sure counts and clusters are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mednext_jax.measure.parcellation import Parcellation
from mednext_jax.quantify.one_scan import Counting, Quantified, quantify_arrays

SD_FOLDS, SD_MIRRORS, ENTROPY = "sd_between_folds", "sd_between_mirrors", "entropy"
_NORMAL = 1.959964  # of a 95 % interval


@dataclasses.dataclass(frozen=True)
class Members:
    """maps: column of the clusters' table -> its map float32 (x, y, z) on the scan's grid.

    found: of each model and each mirror, which voxels it finds: flat indices into (x, y, z).
    """

    maps: Mapping[str, np.ndarray]
    found: Sequence[Sequence[np.ndarray]]


def with_members(
    measured: Quantified, members: Members, affine: np.ndarray, brain: Parcellation | None, counting: Counting
) -> Quantified:
    """The measures with each cluster's mean of the maps, and each region's expected count and volume with intervals.

    The interval is the mean over members plus and minus 1.96 standard deviations, of which the variance is that between
    models (over mirrors averaged) plus that between mirrors (over models averaged); it knows nothing of what all models
    get wrong together. A kind with one member adds nothing, and a single member has no interval.
    """
    inside = measured.labels > 0
    sizes = np.bincount(measured.labels[inside], minlength=len(measured.clusters) + 1)[1:]
    clusters = measured.clusters
    for name, values in members.maps.items():
        sums = np.bincount(measured.labels[inside], values[inside], len(clusters) + 1)[1:]
        clusters = [row | {name: total / size} for row, total, size in zip(clusters, sums, sizes, strict=True)]
    # (models, mirrors, regions)
    rows = [[_regions(one, measured.labels.shape, affine, brain, counting) for one in model] for model in members.found]
    regions = []
    for i, row in enumerate(measured.regions):
        about: dict[str, Any] = {}
        for column, short in (("count", "count"), ("volume_mm3", "volume")):
            values = np.array([[table[i][column] for table in model] for model in rows], float)
            unit = column.removeprefix(short)
            expected, low, high = interval(values)
            about |= {f"{short}_expected{unit}": expected, f"{short}_low{unit}": low, f"{short}_high{unit}": high}
        regions.append(row | about)
    return dataclasses.replace(measured, clusters=clusters, regions=regions)


def interval(values: np.ndarray) -> tuple[float, float | None, float | None]:
    """Mean, lower and upper end of (models, mirrors) values of which none is negative; see `with_members`."""
    variance = sum(float(np.var(values.mean(1 - axis), ddof=1)) for axis in (0, 1) if values.shape[axis] > 1)
    middle, half = float(values.mean()), _NORMAL * math.sqrt(variance)
    return (middle, max(middle - half, 0.0), middle + half) if values.size > 1 else (middle, None, None)


def _regions(
    found: np.ndarray, shape: tuple[int, ...], affine: np.ndarray, brain: Parcellation | None, counting: Counting
) -> list[dict[str, Any]]:
    mask = np.zeros(math.prod(shape), bool)
    mask[found] = True
    return quantify_arrays(mask.reshape(shape), affine, None, brain, counting).regions
