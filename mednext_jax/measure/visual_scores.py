"""What a rater would write: the visual scores of Potter et al. and of Wardlaw's group, from counted clusters.

Potter et al. 2015 (Cerebrovasc Dis 39:224): PVS on the axial slice and side with most, in the basal ganglia and in the
centrum semiovale; in the midbrain only whether there are any. Words: Doubal et al. 2010 (Stroke 41:450).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from mednext_jax.measure.clusters import ClusterVoxels
from mednext_jax.measure.parcellation import axial_axis

_UP_TO = (0, 10, 20, 40)  # PVS of the grades 0 to 3
WARDLAW = ("none", "mild", "moderate", "frequent", "severe")


@dataclasses.dataclass(frozen=True)
class FullestSlice:
    """The axial slice that most clusters reach into: how many, and where its middle lies, mm along z (NaN: none)."""

    count: int
    z: float


def potter_grade(count: int) -> int:
    """0: none, 1: 1 to 10, 2: 11 to 20, 3: 21 to 40, 4: more."""
    return int(np.searchsorted(_UP_TO, count))


def fullest_slice(voxels: ClusterVoxels, chosen: np.ndarray) -> FullestSlice:
    """The slice with most of the clusters `chosen` (count,) boolean; a cluster counts in each slice that it reaches.

    Whole clusters are counted, not their cuts, so that a PVS that winds through a slice is one. Of several such
    slices the lowest along the array is named.
    """
    axis = axial_axis(voxels.affine)
    keep = chosen[voxels.owner]
    levels = voxels.shape[axis]
    pairs = np.unique(voxels.owner[keep] * levels + voxels.index[keep, axis])
    if not len(pairs):
        return FullestSlice(0, float("nan"))
    counts = np.bincount(pairs % levels, minlength=levels)
    level = int(counts.argmax())
    middle = (np.array(voxels.shape) - 1) / 2
    middle[axis] = level
    return FullestSlice(int(counts[level]), float(voxels.affine[2, :3] @ middle + voxels.affine[2, 3]))
