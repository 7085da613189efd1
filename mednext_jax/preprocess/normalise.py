"""Intensity normalisation, one scheme a channel, as nnU-Net does it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mednext_jax.io.slabs import over_slabs

SCHEMES = ("zscore", "none", "ct")
# nnU-Net's channel names that choose a scheme; every other name means z-score.
SCHEME_OF_CHANNEL = {"ct": "ct", "nonorm": "none", "none": "none", "zscore": "zscore"}
SMALLEST_DEVIATION = 1e-8


def scheme_of(channel_name: str) -> str:
    """The scheme that nnU-Net gives to a channel of this name."""
    return SCHEME_OF_CHANNEL.get(channel_name.casefold(), "zscore")


class Scaling(NamedTuple):
    """What is done to a channel: clip to low and high, subtract mean, divide by deviation; masked: only in the mask."""

    low: float
    high: float
    mean: float
    deviation: float
    masked: bool


def find_scaling(
    volume: np.ndarray,
    schemes: Sequence[str],
    mask: np.ndarray,
    use_mask: bool,
    intensity_properties: Sequence[Mapping[str, float]] | None = None,
) -> list[Scaling]:
    """The scaling of each channel of float32 (d, h, w, c).

    "zscore": mean and population deviation of the channel, with `use_mask` over `mask` (d, h, w) only, and voxels
    outside it stay exactly as they are, 0. "ct": clip to `percentile_00_5` and `percentile_99_5` of the training set,
    then its `mean` and `std`. "none": as it is.
    """
    if len(schemes) != volume.shape[-1]:
        raise ValueError(f"{len(schemes)} normalisation schemes for {volume.shape[-1]} channels")
    scaling = []
    for c, scheme in enumerate(schemes):
        if scheme == "zscore":
            mean, deviation = _moments(volume[..., c], mask if use_mask else None)
            scaling.append(Scaling(-np.inf, np.inf, mean, max(deviation, SMALLEST_DEVIATION), use_mask))
        elif scheme == "ct":
            if intensity_properties is None:
                raise ValueError("scheme 'ct' needs the intensity properties of the training set")
            low, high, mean, deviation = (
                intensity_properties[c][key] for key in ("percentile_00_5", "percentile_99_5", "mean", "std")
            )
            scaling.append(Scaling(low, high, mean, max(deviation, SMALLEST_DEVIATION), False))
        elif scheme == "none":
            scaling.append(Scaling(-np.inf, np.inf, 0.0, 1.0, False))
        else:
            raise ValueError(f"unknown normalisation {scheme!r}; one of {', '.join(SCHEMES)}")
    return scaling


def _moments(channel: np.ndarray, mask: np.ndarray | None) -> tuple[float, float]:
    """Mean and population deviation of (d, h, w), plane by plane: each stays in cache, and sums are float64."""

    def total(of_plane: Callable[[np.ndarray], np.floating]) -> float:
        def of_slab(slab: slice) -> list[float]:
            planes = range(len(channel))[slab]
            return [float(of_plane(channel[d] if mask is None else channel[d][mask[d]])) for d in planes]

        return math.fsum(itertools.chain(*over_slabs(len(channel), of_slab)))

    count = channel.size if mask is None else np.count_nonzero(mask)
    mean = total(np.sum) / count
    return mean, math.sqrt(total(lambda plane: np.square(plane - np.float32(mean)).sum()) / count)


def normalise(
    volume: np.ndarray,
    schemes: Sequence[str],
    mask: np.ndarray,
    use_mask: bool,
    intensity_properties: Sequence[Mapping[str, float]] | None = None,
) -> np.ndarray:
    """Scale each channel of float32 (d, h, w, c) as `find_scaling` says; returns a new array."""
    result = np.array(volume, np.float32)
    for c, known in enumerate(find_scaling(volume, schemes, mask, use_mask, intensity_properties)):
        inside = mask if known.masked else ...
        values = np.clip(result[..., c][inside], known.low, known.high)
        result[..., c][inside] = (values - known.mean) / known.deviation
    return result
