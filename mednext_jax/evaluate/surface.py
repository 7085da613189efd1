"""Distances between the surfaces of two masks: normalised surface Dice and the 95th percentile of the distances.

The surface of a mask is its voxels with a face to the background (or to the scan's border); each counts once. This is
the definition of MONAI and of Metrics Reloaded. Distances are between voxel centres, found with the whole affine, so
that anisotropic and sheared grids are right in mm.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree

from mednext_jax.evaluate.voxel import ratio


@dataclasses.dataclass(frozen=True)
class SurfaceDistances:
    """Distances from each surface voxel of one mask to the nearest one of the other, both ways.

    predicted (p,), reference (r,): mm; predicted_voxels, reference_voxels: the same in voxels (every edge 1).
    Infinite where the other mask is empty. predicted_at, reference_at: indices (n, 3) of the surface voxels.
    """

    predicted: np.ndarray
    reference: np.ndarray
    predicted_voxels: np.ndarray
    reference_voxels: np.ndarray
    predicted_at: np.ndarray
    reference_at: np.ndarray

    @classmethod
    def of(cls, predicted: np.ndarray, reference: np.ndarray, axes: np.ndarray) -> SurfaceDistances:
        """From boolean masks of one shape; axes (3, 3): the mm that a step along each array axis goes (in columns)."""
        ours, theirs = surface_voxels(predicted), surface_voxels(reference)
        mm = ours @ np.asarray(axes, float).T, theirs @ np.asarray(axes, float).T
        return cls(
            _nearest(mm[0], mm[1]), _nearest(mm[1], mm[0]), _nearest(ours, theirs), _nearest(theirs, ours), ours, theirs
        )

    def scores(self, inside: np.ndarray | None = None) -> dict[str, float]:
        """nsd_1_voxel, nsd_1_mm and hd95_mm; `inside`: a region's mask, of which only the surface voxels count.

        NSD is the part of both surfaces' voxels that lie at most the tolerance from the other surface. HD95 is the
        larger of the two 95th percentiles. Both masks empty: NaN; one empty: NSD 0, HD95 NaN.
        """
        predicted = np.ones(len(self.predicted), bool) if inside is None else inside[tuple(self.predicted_at.T)]
        reference = np.ones(len(self.reference), bool) if inside is None else inside[tuple(self.reference_at.T)]
        in_mm = self.predicted[predicted], self.reference[reference]
        in_voxels = self.predicted_voxels[predicted], self.reference_voxels[reference]
        return {"nsd_1_voxel": _within(*in_voxels), "nsd_1_mm": _within(*in_mm), "hd95_mm": _percentile(*in_mm)}


def surface_voxels(mask: np.ndarray) -> np.ndarray:
    """Indices (n, 3) of the voxels of a boolean 3D mask that have one of six neighbours outside it."""
    return np.argwhere(mask & ~binary_erosion(mask))


def _nearest(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    if not len(points) or not len(others):
        return np.full(len(points), math.inf)
    return cKDTree(others).query(points)[0]


def _within(first: np.ndarray, second: np.ndarray, tolerance: float = 1.0) -> float:
    # A millionth more: sqrt and the affine's rounding must not decide over a neighbour at exactly the tolerance.
    limit = tolerance * (1 + 1e-6)
    return ratio(int((first <= limit).sum() + (second <= limit).sum()), len(first) + len(second))


def _percentile(first: np.ndarray, second: np.ndarray) -> float:
    """NaN if either side has no surface, or none to measure to."""
    if not len(first) or not len(second) or not (np.isfinite(first).all() and np.isfinite(second).all()):
        return math.nan
    return float(max(np.percentile(first, 95), np.percentile(second, 95)))
