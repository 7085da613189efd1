"""Single perivascular spaces: connected clusters of a mask, their voxels, and the region that each belongs to."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import ndimage

from mednext_jax.io.geometry import voxel_volume

ELSEWHERE = 0  # the value of a region map where there is no region
# Voxels that share a face; a face or an edge; a face, an edge or a corner.
CONNECTIVITIES = {6: 1, 18: 2, 26: 3}


def label_clusters(mask: np.ndarray, connectivity: int = 26) -> tuple[np.ndarray, int]:
    """Labels (same shape, int32, 1..count) of the connected clusters of a 3D `mask`, and their count.

    26-connected by default, as SHIVA-PVS and VALDO count PVS: voxels that share a corner belong together.
    """
    structure = ndimage.generate_binary_structure(3, CONNECTIVITIES[connectivity])
    labels, count = ndimage.label(np.asarray(mask) > 0, structure, output=np.int32)
    return labels, int(count)


def cluster_regions(labels: np.ndarray, count: int, region_map: np.ndarray) -> np.ndarray:
    """Region (count,) of the clusters 1..count of `labels` by `vote`; `region_map` has the same shape."""
    inside = labels > 0
    return vote(labels[inside] - 1, count, region_map[inside])[0]


def vote(owner: np.ndarray, count: int, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The region (count,) of each cluster: the value that most of its voxels have; and whether two had as many.

    owner: cluster (n,), from 0, of each voxel; values: its region, 0 for none. Voxels without a region have no vote, so
    that a tissue map with a hole at the PVS does not lose it; a cluster is elsewhere (0) only if no voxel of it lies in
    a region. A tie goes to the lower value.
    """
    named = np.unique(values[values > 0])
    if not len(named):
        return np.zeros(count, np.int64), np.zeros(count, bool)
    inside = values > 0
    ballots = owner[inside] * len(named) + np.searchsorted(named, values[inside])
    votes = np.bincount(ballots, minlength=count * len(named)).reshape(count, len(named))
    most = votes.max(1)
    tied = (votes == most[:, None]).sum(1) > 1
    return np.where(most > 0, named[votes.argmax(1)], ELSEWHERE), tied & (most > 0)


@dataclasses.dataclass(frozen=True)
class ClusterVoxels:
    """The voxels of all clusters of one mask, those of a cluster together and in the order of the array.

    index: (n, 3) in the array. owner: (n,) cluster, from 0. starts: (count + 1,); those of cluster i are
    `starts[i]:starts[i + 1]`. affine: (4, 4) voxel to mm.
    """

    index: np.ndarray
    owner: np.ndarray
    starts: np.ndarray
    affine: np.ndarray
    shape: tuple[int, ...]

    @classmethod
    def of(cls, labels: np.ndarray, count: int, affine: np.ndarray) -> ClusterVoxels:
        """The voxels of the clusters 1..count of `labels` (x, y, z)."""
        index = np.argwhere(labels > 0)
        owner = labels[tuple(index.T)].astype(np.int64) - 1
        order = np.argsort(owner, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=count))])
        return cls(index[order], owner[order], starts, np.asarray(affine, np.float64), labels.shape)

    @property
    def count(self) -> int:
        """The number of clusters."""
        return len(self.starts) - 1

    @property
    def sizes(self) -> np.ndarray:
        """Voxels (count,) of each cluster."""
        return np.diff(self.starts)

    @property
    def points(self) -> np.ndarray:
        """Centres (n, 3) of the voxels in mm."""
        return self.index @ self.affine[:3, :3].T + self.affine[:3, 3]

    @property
    def voxel_volume(self) -> float:
        """mm3 of one voxel."""
        return voxel_volume(self.affine)

    def of_clusters(self, chosen: np.ndarray) -> ClusterVoxels:
        """The voxels of the clusters that are `chosen` (count,) boolean, numbered anew in the same order."""
        keep = chosen[self.owner]
        starts = np.concatenate([[0], np.cumsum(self.sizes[chosen])])
        owner = (np.cumsum(chosen) - 1)[self.owner[keep]]
        return ClusterVoxels(self.index[keep], owner, starts, self.affine, self.shape)

    def means(self, values: np.ndarray) -> np.ndarray:
        """Mean (count, ...) over each cluster of `values` (n, ...) of its voxels."""
        return np.add.reduceat(values, self.starts[:-1]) / self.sizes.reshape(-1, *(1,) * (values.ndim - 1))
