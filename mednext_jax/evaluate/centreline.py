"""clDice: do the centrelines of two masks lie within each other (Shit et al. 2021)."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from mednext_jax.evaluate.voxel import ratio
from mednext_jax.io.geometry import bounding_box


@dataclasses.dataclass(frozen=True)
class Centrelines:
    """Centreline voxels (n, 3) of two masks, and of each whether it lies in the other mask."""

    predicted_at: np.ndarray
    reference_at: np.ndarray
    predicted_inside: np.ndarray
    reference_inside: np.ndarray

    @classmethod
    def of(cls, predicted: np.ndarray, reference: np.ndarray) -> Centrelines | None:
        """From boolean 3D masks of one shape; None if scikit-image (the `evaluate` extra) is not installed."""
        try:
            from skimage.morphology import skeletonize
        except ImportError:
            return None
        ours, theirs = (_centreline(mask, skeletonize) for mask in (predicted, reference))
        return cls(ours, theirs, reference[tuple(ours.T)], predicted[tuple(theirs.T)])

    def cl_dice(self, inside: np.ndarray | None = None) -> float:
        """The harmonic mean of the two parts that lie inside; `inside`: a region's mask, of which the voxels count.

        NaN if neither mask has a centreline there, 0 if one has none.
        """
        ours, theirs = self.predicted_inside, self.reference_inside
        if inside is not None:
            ours = ours[inside[tuple(self.predicted_at.T)]]
            theirs = theirs[inside[tuple(self.reference_at.T)]]
        if not len(ours) and not len(theirs):
            return math.nan
        if not len(ours) or not len(theirs):
            return 0.0
        precision, sensitivity = float(ours.mean()), float(theirs.mean())
        return ratio(2 * precision * sensitivity, precision + sensitivity) if precision + sensitivity else 0.0


def _centreline(mask: np.ndarray, skeletonize) -> np.ndarray:
    """Indices (n, 3) of the skeleton (Lee, Kashyap and Chu 1994) of a mask."""
    box = bounding_box(mask)
    if box is None:
        return np.zeros((0, 3), int)
    return np.argwhere(skeletonize(np.pad(mask[box], 1))) - 1 + [part.start for part in box]
