"""Single perivascular spaces: connected clusters of a mask, and a table of their sizes and places."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import ndimage

ELSEWHERE = 0  # the value of a region map where there is no region


@dataclasses.dataclass(frozen=True)
class Cluster:
    """One row of the table. Lengths in mm, volumes in mm3, the centroid in the scan's world coordinates (mm).

    length: extent along the first principal axis of the voxel centres plus one voxel. It is the length of a straight
    tube; a curved one is longer along its course.
    width: diameter of the cylinder with this length and volume, 2 sqrt(volume / (pi length)).
    region: value in the region map, 0 for none (or without a map).
    """

    label: int
    voxels: int
    volume_mm3: float
    length_mm: float
    width_mm: float
    x_mm: float
    y_mm: float
    z_mm: float
    region: int


def label_clusters(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Labels (same shape, int32, 1..count) of the 26-connected clusters of a 3D `mask`, and their count.

    As SHIVA-PVS and VALDO count PVS: voxels that share a corner belong together.
    """
    labels, count = ndimage.label(np.asarray(mask) > 0, ndimage.generate_binary_structure(3, 3), output=np.int32)
    return labels, int(count)


def cluster_regions(labels: np.ndarray, count: int, region_map: np.ndarray) -> np.ndarray:
    """Region (count,) of the clusters 1..count: the one that holds most of the cluster's voxels.

    Voxels without a region (0) have no vote, so that a tissue map with a hole at the PVS does not lose it; a cluster
    is elsewhere (0) only if no voxel of it lies in a region. A tie goes to the lower value.
    """
    inside = (labels > 0) & (region_map > 0)
    values = np.unique(region_map[inside])
    if not len(values):
        return np.zeros(count, np.int64)
    votes = np.zeros((count, len(values)), np.int64)
    np.add.at(votes, (labels[inside] - 1, np.searchsorted(values, region_map[inside])), 1)
    return np.where(votes.any(1), values[votes.argmax(1)], ELSEWHERE)


def cluster_table(
    labels: np.ndarray, count: int, affine: np.ndarray, region_map: np.ndarray | None = None
) -> list[Cluster]:
    """The table of clusters 1..count of `labels` (x, y, z), a NIfTI array with its `affine` (4, 4) to mm."""
    if count == 0:
        return []
    index = np.argwhere(labels > 0)  # (voxels, 3)
    owner = labels[tuple(index.T)] - 1  # (voxels,)
    points = index @ affine[:3, :3].T + affine[:3, 3]  # voxel centres in mm
    voxels = np.bincount(owner, minlength=count)
    centroid = np.stack([np.bincount(owner, p, count) for p in points.T], 1) / voxels[:, None]
    away = points - centroid[owner]
    moments = np.stack([np.bincount(owner, away[:, i] * away[:, j], count) for i in range(3) for j in range(3)], 1)
    axes = np.linalg.eigh(moments.reshape(-1, 3, 3))[1][:, :, -1]  # (count, 3), unit
    along = (away * axes[owner]).sum(1)
    low, high = np.zeros(count), np.zeros(count)
    np.minimum.at(low, owner, along)
    np.maximum.at(high, owner, along)
    # Half a voxel sticks out at either end: one voxel's size in this direction.
    length = high - low + np.linalg.norm(axes @ affine[:3, :3], axis=1)
    volume = voxels * abs(np.linalg.det(affine[:3, :3]))
    width = 2 * np.sqrt(volume / (np.pi * length))
    regions = np.zeros(count, np.int64) if region_map is None else cluster_regions(labels, count, region_map)
    columns = zip(voxels, volume, length, width, *centroid.T, regions, strict=True)
    return [
        Cluster(i, int(n), float(v), float(l), float(w), float(x), float(y), float(z), int(r))
        for i, (n, v, l, w, x, y, z, r) in enumerate(columns, 1)
    ]
