"""The non-zero region of a scan: its filled mask and the box around it (nnU-Net's `crop_to_nonzero`)."""

from __future__ import annotations

import numpy as np
import scipy.ndimage

from mednext_jax.errors import InputError
from mednext_jax.io.geometry import bounding_box
from mednext_jax.io.slabs import over_slabs

# Written into a stored label map where the scan is zero outside the head or brain and nothing is labelled.
OUTSIDE = -1

Box = tuple[slice, slice, slice]


def nonzero_region(volume: np.ndarray) -> tuple[np.ndarray, Box]:
    """The voxels of (d, h, w, c) that are not zero in every channel, holes filled, and the tight box around them.

    The mask is boolean and has the shape of the box. Raises InputError if every voxel is zero.
    """
    mask, box = nonzero_box(volume)
    return _fill_holes(mask), box


def nonzero_box(volume: np.ndarray) -> tuple[np.ndarray, Box]:
    """As `nonzero_region` with the holes left in the mask: a tenth of its time, where only the box matters."""
    mask = np.empty(volume.shape[:3], bool)

    def find(slab: slice) -> None:
        np.not_equal(volume[slab, ..., 0], 0, out=mask[slab])
        for c in range(1, volume.shape[-1]):  # NumPy's `any` over so short an axis takes ten times as long
            mask[slab] |= volume[slab, ..., c] != 0

    over_slabs(len(mask), find)
    box = bounding_box(mask)
    if box is None:
        raise InputError(
            "The scan is zero everywhere.",
            expected="an image",
            found="no voxel that is not zero",
            hint="check the scan, and the mask if one was applied",
        )
    return mask[box], box


def mark_outside(label: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A copy of `label` (d, h, w) as int16 with `OUTSIDE` where it is 0 and `mask` is not set."""
    marked = label.astype(np.int16)
    marked[(label == 0) & ~mask] = OUTSIDE
    return marked


def _fill_holes(mask: np.ndarray) -> np.ndarray:
    """scipy's binary_fill_holes by one labelling of the background, which takes a third of its time."""
    background, _ = scipy.ndimage.label(np.pad(~mask, 1, constant_values=True))
    return (background != background[0, 0, 0])[1:-1, 1:-1, 1:-1]
