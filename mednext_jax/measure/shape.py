"""Length, width, linearity, tortuosity and direction of each cluster, in mm on any grid."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np

from mednext_jax.measure.clusters import ClusterVoxels
from mednext_jax.measure.course import Course, degree_of, distances_to_an_end, fit_course

# A bent middle line is taken if it leaves less than this of the squared distances from a straight one: the edges of a
# straight tube's voxels can always be followed a little.
BENT = 0.9


@dataclasses.dataclass(frozen=True)
class Shapes:
    """One value (count,) a cluster; lengths in mm, volumes in mm3, places in the scan's world coordinates (mm).

    length: along the middle line, sqrt(12 variance of the voxels' places along it): the length of a tube of even width.
        Of a straight one this is sqrt(12 l1) with l1 >= l2 >= l3 the eigenvalues of the covariance of the cluster's
        volume (of the voxels' centres, plus that of one voxel).
    width: diameter of the cylinder of this length and the cluster's volume V, 2 sqrt(V / (pi length)). What would be
        wider than long (a ball, a single voxel) is as long as wide: (4 V / pi)^(1/3).
    width_max: the same over the part of the course that holds most, parts being as long as wide and at least 2 voxels.
    linearity: (l1 - l2) / l1. tortuosity: length of the middle line over the distance of its ends.
    direction: (count, 3) first axis, unit, right anterior superior, its z not negative.
    edinburgh_length, edinburgh_width: axes of the ellipsoid with the same moments, 2 sqrt(5 l1) and 2 sqrt(5 l2), as
        Ballerini et al. measure; of a cylinder 1.29 times its length and 1.12 times its diameter.
    """

    centroid: np.ndarray
    volume: np.ndarray
    length: np.ndarray
    width: np.ndarray
    width_max: np.ndarray
    linearity: np.ndarray
    tortuosity: np.ndarray
    direction: np.ndarray
    edinburgh_length: np.ndarray
    edinburgh_width: np.ndarray


def measure_shapes(voxels: ClusterVoxels) -> Shapes:
    """The shapes of all clusters; sheared and anisotropic grids are measured in mm as they are."""
    if not voxels.count:
        none, vectors = np.zeros(0), np.zeros((0, 3))
        return Shapes(vectors, none, none, none, none, none, none, vectors, none, none)
    matrix = voxels.affine[:3, :3]
    points = voxels.points
    centroid = voxels.means(points)
    away = points - centroid[voxels.owner]
    # A voxel is no point: the covariance of the box that it fills.
    covariance = voxels.means(away[:, :, None] * away[:, None, :]) + matrix @ matrix.T / 12
    spread, axes = np.linalg.eigh(covariance)  # ascending
    straight = np.sqrt(12 * spread[:, 2])
    volume = voxels.sizes * voxels.voxel_volume
    voxel = voxels.voxel_volume ** (1 / 3)
    direction = axes[:, :, 2]
    direction = direction * np.where(_is_negative(direction), -1, 1)[:, None]

    length, tortuosity, width_max = straight.copy(), np.ones(voxels.count), np.zeros(voxels.count)
    degree = degree_of(straight, _width(volume, straight), voxel, voxels.sizes)
    bending = voxels.of_clusters(degree > 1)
    start = np.zeros(len(points))
    start[(degree > 1)[voxels.owner]] = distances_to_an_end(bending)
    for i, (first, last) in enumerate(itertools.pairwise(voxels.starts)):
        part = slice(first, last)
        along = away[part] @ direction[i]
        across = float((away[part] ** 2).sum(1).mean() - (along**2).mean())
        course = Course(along, np.broadcast_to(direction[i], (last - first, 3)), 1.0, across)
        # A tube that was cut out of a crossing is in two pieces: none of the one is reached from the other.
        begin = start[part] if np.isfinite(start[part]).all() else along
        bent = fit_course(points[part], begin, degree[i], voxel / 2) if degree[i] > 1 else None
        if bent is not None and bent.across < BENT * across:
            course = bent
            length[i] = np.sqrt(12 * course.along.var() + ((course.tangent @ matrix) ** 2).sum(1).mean())
            tortuosity[i] = course.tortuosity
        if length[i] < _width(volume[i], length[i]):
            length[i] = np.cbrt(4 * volume[i] / np.pi)
        width_max[i] = _widest(course, length[i], _width(volume[i], length[i]), matrix, voxels.voxel_volume)
    width = _width(volume, length)
    return Shapes(
        centroid=centroid,
        volume=volume,
        length=length,
        width=width,
        width_max=np.maximum(width_max, width),
        linearity=(spread[:, 2] - spread[:, 1]) / spread[:, 2],
        tortuosity=tortuosity,
        direction=direction,
        edinburgh_length=2 * np.sqrt(5 * spread[:, 2]),
        edinburgh_width=2 * np.sqrt(5 * spread[:, 1]),
    )


def _width(volume: Any, length: Any) -> Any:
    """The width of the cylinder with this volume and length; numbers or arrays."""
    return 2 * np.sqrt(volume / (np.pi * length))


def _widest(course: Course, length: float, width: float, matrix: np.ndarray, voxel_volume: float) -> float:
    """Diameter where the course holds most volume, over parts as long as wide; 0 for a course of one part."""
    size = max(width, 2 * np.cbrt(voxel_volume))
    parts = int(length // size)
    if parts < 2:
        return 0.0
    # Each voxel counts for every part that it reaches into, by the share of it that lies there.
    middle = course.along.mean()
    edges = middle + np.linspace(-length / 2, length / 2, parts + 1)
    reach = np.linalg.norm(course.tangent @ matrix, axis=1)[:, None]  # its extent along the course
    below = np.clip((edges - course.along[:, None]) / reach + 0.5, 0, 1)
    held = np.diff(below, axis=1).sum(0) * voxel_volume
    return float(_width(held.max(), length / parts))


def _is_negative(direction: np.ndarray) -> np.ndarray:
    """Whether the opposite of an axis is the positive one: by z, else by y, else by x."""
    x, y, z = np.where(np.abs(direction) < 1e-9, 0, direction).T
    return (z < 0) | ((z == 0) & ((y < 0) | ((y == 0) & (x < 0))))
