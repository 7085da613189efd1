"""The course of a cluster: a smooth middle line through its voxels, and where along it each voxel lies.

A digital skeleton ends half a width before the ends of a tube and runs in steps of a voxel: of a tube of 8 x 2 mm it
shows 5 to 6 mm. The middle line here is a curve fitted to all voxels (a principal curve, Hastie and Stuetzle 1989). It
starts from the voxels' distances through the cluster to one of its ends, so that a hook or a loop is followed.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.polynomial import legendre
from scipy import sparse
from scipy.sparse.csgraph import dijkstra

from mednext_jax.measure.clusters import ClusterVoxels

MAX_DEGREE = 5  # of the middle line: enough for an S or a hook
REFITS = 3
# A smaller cluster has no course of its own, a larger one (10 mL at 0.8 mm) is no vessel's space.
FEWEST_VOXELS, MOST_VOXELS = 4, 20_000
_HALF_OFFSETS = np.array(
    [(x, y, z) for x in (0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1) if (x, y, z) > (0, 0, 0)], np.int64
)


@dataclasses.dataclass(frozen=True)
class Course:
    """The middle line of one cluster of n voxels.

    along: (n,) place of each voxel along it, mm. tangent: (n, 3) unit, its direction there. tortuosity: its length over
    the distance of its ends, 1 for a straight one. across: mean squared distance of the voxels from it, mm2.
    """

    along: np.ndarray
    tangent: np.ndarray
    tortuosity: float
    across: float


def distances_to_an_end(voxels: ClusterVoxels) -> np.ndarray:
    """Distance (n,) in mm of each voxel, through its cluster, to one of the cluster's two farthest ends.

    Infinite in the other pieces of a cluster that is not connected.
    """
    if not voxels.count:
        return np.zeros(0)
    edges = _neighbours(voxels)
    steps = np.linalg.norm((voxels.index[edges[0]] - voxels.index[edges[1]]) @ voxels.affine[:3, :3].T, axis=1)
    graph = sparse.coo_matrix((steps, edges), (len(voxels.index),) * 2).tocsr()
    away = voxels.points - voxels.means(voxels.points)[voxels.owner]
    distance = (away**2).sum(1)
    for _ in range(2):  # the farthest from anywhere is an end, the farthest from an end the other
        distance = dijkstra(graph, directed=False, indices=_largest(distance, voxels), min_only=True)
    return distance


def fit_course(points: np.ndarray, start: np.ndarray, degree: int, step: float) -> Course | None:
    """The middle line through `points` (n, 3) in mm, a polynomial of `degree`; None if they do not span one.

    start: (n,) a first idea of where each lies along it. step: mm between the points at which the line is looked at.
    """
    along = start
    for _ in range(REFITS):
        low, high = along.min(), along.max()
        if not high - low > 1e-6:
            return None
        scaled = (2 * along - low - high) / (high - low)
        coefficients = np.linalg.lstsq(legendre.legvander(scaled, degree), points, rcond=None)[0]
        ends = np.linspace(-1, 1, max(int(np.ceil((high - low) / step)), 8) + 1)
        line = legendre.legvander(ends, degree) @ coefficients
        lengths = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
        tangents = np.gradient(line, axis=0)
        size = np.linalg.norm(tangents, axis=1, keepdims=True)
        if not size.min() > 1e-9 * size.max():
            return None
        tangents /= size
        nearest = _nearest(points, line)
        along = lengths[nearest] + ((points - line[nearest]) * tangents[nearest]).sum(1)
    away = points - line[nearest]
    across = float(((away**2).sum(1) - (away * tangents[nearest]).sum(1) ** 2).mean())
    chord = np.linalg.norm(line[-1] - line[0])
    return Course(along, tangents[nearest], float(lengths[-1] / chord) if chord > 0 else np.inf, across)


def degree_of(length: np.ndarray, width: np.ndarray, voxel: float, count: np.ndarray) -> np.ndarray:
    """How much each middle line may bend: one degree for every two widths of its length, and every four voxels.

    With more it follows the voxels' edges, and a straight tube reads up to a tenth too long.
    """
    degree = np.clip(length // (2 * np.maximum(width, 2 * voxel)), 1, MAX_DEGREE).astype(int)
    return np.where((count < FEWEST_VOXELS) | (count > MOST_VOXELS), 1, degree)


def _neighbours(voxels: ClusterVoxels) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of voxels (m,), (m,) of one cluster that share a face, an edge or a corner."""
    padded = np.array(voxels.shape) + 2
    flat = np.ravel_multi_index(tuple(voxels.index.T + 1), padded)
    order = np.argsort(flat, kind="stable")
    ordered = flat[order]
    one, other = [], []
    for offset in _HALF_OFFSETS @ [padded[1] * padded[2], padded[2], 1]:
        place = np.minimum(np.searchsorted(ordered, flat + offset), len(flat) - 1)
        found = np.flatnonzero(ordered[place] == flat + offset)
        there = order[place[found]]
        same = voxels.owner[found] == voxels.owner[there]
        one.append(found[same])
        other.append(there[same])
    return np.concatenate(one), np.concatenate(other)


def _largest(values: np.ndarray, voxels: ClusterVoxels) -> np.ndarray:
    """The voxel (count,) of each cluster with the largest value; the first of several."""
    order = np.lexsort((-np.arange(len(values)), values, voxels.owner))
    return order[voxels.starts[1:] - 1]


def _nearest(points: np.ndarray, line: np.ndarray) -> np.ndarray:
    """The nearest point of `line` (m, 3) for each of `points` (n, 3), in pieces that bound the memory."""
    size = (line**2).sum(1)
    pieces = np.array_split(points, len(points) * len(line) // 2**22 + 1)
    return np.concatenate([(size - 2 * piece @ line.T).argmin(1) for piece in pieces])
