"""Intensity normalisation, one scheme a channel, as nnU-Net does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

SCHEMES = ("zscore", "none", "ct")
# nnU-Net's channel names that choose a scheme; every other name means z-score.
SCHEME_OF_CHANNEL = {"ct": "ct", "nonorm": "none", "none": "none", "zscore": "zscore"}
SMALLEST_DEVIATION = 1e-8


def scheme_of(channel_name: str) -> str:
    """The scheme that nnU-Net gives to a channel of this name."""
    return SCHEME_OF_CHANNEL.get(channel_name.casefold(), "zscore")


def normalise(
    volume: np.ndarray,
    schemes: Sequence[str],
    mask: np.ndarray,
    use_mask: bool,
    intensity_properties: Sequence[Mapping[str, float]] | None = None,
) -> np.ndarray:
    """Normalise each channel of float32 (d, h, w, c); returns a new array.

    "zscore": (x - mean) / standard deviation (population); with `use_mask` over `mask` (d, h, w) only, and voxels
    outside it stay exactly as they are, 0. "ct": clip to `percentile_00_5` and `percentile_99_5` of the training set,
    then its `mean` and `std`. "none": as it is.
    """
    if len(schemes) != volume.shape[-1]:
        raise ValueError(f"{len(schemes)} normalisation schemes for {volume.shape[-1]} channels")
    result = np.array(volume, np.float32)
    for c, scheme in enumerate(schemes):
        channel = result[..., c]
        if scheme == "zscore":
            inside = mask if use_mask else ...
            values = channel[inside]
            channel[inside] = (values - values.mean()) / max(values.std(), SMALLEST_DEVIATION)
        elif scheme == "ct":
            if intensity_properties is None:
                raise ValueError("scheme 'ct' needs the intensity properties of the training set")
            known = intensity_properties[c]
            np.clip(channel, known["percentile_00_5"], known["percentile_99_5"], out=channel)
            channel -= known["mean"]
            channel /= max(known["std"], SMALLEST_DEVIATION)
        elif scheme != "none":
            raise ValueError(f"unknown normalisation {scheme!r}; one of {', '.join(SCHEMES)}")
    return result
