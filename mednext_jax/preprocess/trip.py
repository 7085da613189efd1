"""A scan's trip: to what the network sees, and what is needed to come back to its own grid.

The steps are `find_region`, `scale` and `resample`, over an array and its matrices. `preprocess_scan` does them on
the host for training cases, inference.on_device compiles the same for the predictor, with the way back.

nnU-Net's order: crop to non-zero, normalise, resample. Its formulas: cubic for images, per-label linear for labels,
linear on the way back.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mednext_jax.errors import InputError
from mednext_jax.io.geometry import in_mm
from mednext_jax.io.nifti_header import MAX_VOXELS
from mednext_jax.ops.resample import find_thick_axis, resampled_shape, resize, resize_labels
from mednext_jax.preprocess.crop import find_region, mark_outside
from mednext_jax.preprocess.normalise import normalise
from mednext_jax.preprocess.preprocessing import Preprocessing

Three = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Properties:
    """What was done to a scan's grid, axes (d, h, w), sizes in voxels and mm: enough to undo it."""

    shape: Three  # of the whole scan
    box_start: Three  # the box cut out of it
    box_shape: Three
    spacing: tuple[float, float, float]  # of the scan
    resampled_shape: Three
    resampled_spacing: tuple[float, float, float]

    def to_dict(self) -> dict[str, Any]:
        """The properties as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Properties:
        """The inverse of `to_dict`; raises KeyError for a missing field."""
        return cls(**{field.name: tuple(values[field.name]) for field in dataclasses.fields(cls)})


@dataclasses.dataclass(frozen=True)
class Preprocessed:
    """A preprocessed scan: `volume` float32 (d, h, w, c), `label` int16 (d, h, w) or None, and how it came about."""

    volume: np.ndarray
    label: np.ndarray | None
    properties: Properties


def preprocess_scan(
    volume: np.ndarray, spacing: Sequence[float], how: Preprocessing, label: np.ndarray | None = None
) -> Preprocessed:
    """Crop, normalise and resample one scan on the host.

    `volume` float32 (d, h, w, c), already cleaned; `spacing` in mm (d, h, w); `label` integers (d, h, w), which become
    -1 where the scan is zero outside the head and nothing is labelled. Raises InputError if the scan is zero, would
    become too large, or has intensities that cannot be normalised.
    """
    region = find_region(volume, crop=how.crop_to_nonzero, fill=label is not None or how.needs_filled_mask)
    inside = region.mask
    if label is not None:
        label = mark_outside(label[region.box], region.mask)
        # The statistics are taken where a stored label is not -1: labelled voxels count even where the scan is 0.
        inside = label >= 0
    boxed = volume[region.box]
    cropped = normalise(boxed, how.normalisation, inside, how.use_mask_for_norm, how.intensity_properties)
    properties = place_scan(volume.shape[:3], region.box, spacing, how.spacing)
    thick_axis = find_thick_axis(properties.spacing, properties.resampled_spacing)
    resampled = np.ascontiguousarray(resize(cropped, properties.resampled_shape, 3, thick_axis))
    if label is not None:
        label = np.ascontiguousarray(resize_labels(label, properties.resampled_shape, thick_axis))
    return Preprocessed(resampled, label, properties)


def to_prepared_grid(labels: np.ndarray, properties: Properties) -> np.ndarray:
    """A label or region map (d, h, w) on the whole scan's grid -> the same on the preprocessed grid."""
    box = tuple(slice(s, s + n) for s, n in zip(properties.box_start, properties.box_shape, strict=True))
    thick_axis = find_thick_axis(properties.spacing, properties.resampled_spacing)
    return np.ascontiguousarray(resize_labels(labels[box], properties.resampled_shape, thick_axis))


def place_scan(
    shape: Sequence[int], box: Sequence[slice], spacing: Sequence[float], target_spacing: Sequence[float] | None
) -> Properties:
    """Where a scan of `shape` (d, h, w), cut to `box`, comes to lie at `target_spacing` (mm; None keeps its own).

    Raises InputError if it would become too large.
    """
    box_shape = _three(part.stop - part.start for part in box)
    target = spacing if target_spacing is None else target_spacing
    new_shape = box_shape if target_spacing is None else resampled_shape(box_shape, spacing, target)
    if math.prod(new_shape) > MAX_VOXELS:
        raise InputError(
            "The scan would become too large at the target spacing.",
            expected=f"at most {MAX_VOXELS} voxels",
            found=f"{' x '.join(map(str, reversed(new_shape)))} voxels (x, y, z) of "
            f"{in_mm(reversed(target))} from {in_mm(reversed(spacing))}",
            hint="choose a coarser spacing, or correct the voxel size of the scan",
        )
    return Properties(
        shape=_three(shape),
        box_start=_three(part.start for part in box),
        box_shape=box_shape,
        spacing=_mm_tuple(spacing),
        resampled_shape=_three(new_shape),
        resampled_spacing=_mm_tuple(target),
    )


def _three(sizes) -> Three:
    d, h, w = (int(size) for size in sizes)
    return d, h, w


def _mm_tuple(sizes: Sequence[float]) -> tuple[float, float, float]:
    d, h, w = (float(size) for size in sizes)
    return d, h, w
