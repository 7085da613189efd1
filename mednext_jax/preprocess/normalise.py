"""Intensity normalisation, one scheme per channel, as nnU-Net does it.

A scheme finds the scaling of a channel; `scale` applies it, on the host and in the compiled program. A new scheme is
one entry of `SCHEMES`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from mednext_jax.errors import InputError
from mednext_jax.io.slabs import over_slabs

Array = TypeVar("Array", np.ndarray, jax.Array)
SMALLEST_DEVIATION = 1e-8
_TAILS = 1.5  # upper tail / lower tail, between those of scans with dark and with bright fluid
_ENOUGH = 200_000  # voxels for percentiles
# The statistics of a channel over the training set's foreground that a scheme may use.
INTENSITY_KEYS = ("mean", "std", "percentile_00_5", "percentile_99_5")


class Scaling(NamedTuple):
    """What is done to a channel: clip to low and high, subtract mean, divide by deviation; masked: only in the mask."""

    low: float = -math.inf
    high: float = math.inf
    mean: float = 0.0
    deviation: float = 1.0
    masked: bool = False


@dataclasses.dataclass(frozen=True)
class Scheme:
    """One way to normalise a channel.

    find: (channel (d, h, w), mask (d, h, w) or None for all voxels, intensity properties or None) -> its scaling.
    channel_names: nnU-Net's channel names that choose it, in lower case. masked: whether it can be done in the mask
    only; extracted: it is for extracted brains, and always is. needs_intensities: whether it needs the training set's
    intensity properties. nnunet_v1, nnunet_v2: its names in nnU-Net's plans, the one that is written first; none where
    nnU-Net has no such scheme.
    """

    find: Callable[[np.ndarray, np.ndarray | None, Mapping[str, float] | None], Scaling]
    channel_names: tuple[str, ...] = ()
    masked: bool = False
    extracted: bool = False
    needs_intensities: bool = False
    nnunet_v1: tuple[str, ...] = ()
    nnunet_v2: tuple[str, ...] = ()


def scheme_of(channel_name: str) -> str:
    """The scheme that nnU-Net gives to a channel of this name; every name that no scheme claims means z-score."""
    name = channel_name.casefold()
    return next((key for key, scheme in SCHEMES.items() if name in scheme.channel_names), "zscore")


def uses_mask(schemes: Sequence[str]) -> bool:
    """Whether one of the schemes can be done in the non-zero mask only."""
    return any(SCHEMES[name].masked for name in schemes)


def for_extracted_brains(schemes: Sequence[str]) -> bool:
    """Whether one of the schemes is for extracted brains, and always done in the non-zero mask."""
    return any(SCHEMES[name].extracted for name in schemes)


def needs_intensities(schemes: Sequence[str]) -> bool:
    """Whether one of the schemes needs the training set's intensity properties."""
    return any(SCHEMES[name].needs_intensities for name in schemes)


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
    then its `mean` and `std`. "none": as it is. Raises InputError for intensities that float32 cannot scale,
    too large or too much alike.
    """
    if len(schemes) != volume.shape[-1]:
        raise ValueError(f"{len(schemes)} normalisation schemes for {volume.shape[-1]} channels")
    scaling = []
    for c, name in enumerate(schemes):
        if name not in SCHEMES:
            raise ValueError(f"unknown normalisation {name!r}; one of {', '.join(SCHEMES)}")
        scheme = SCHEMES[name]
        if scheme.needs_intensities and intensity_properties is None:
            raise ValueError(f"scheme {name!r} needs the intensity properties of the training set")
        inside = mask if use_mask and scheme.masked else None
        known = None if intensity_properties is None else intensity_properties[c]
        scaling.append(scheme.find(volume[..., c], inside, known))
    return scaling


def scale(volume: Array, scaling: Array, inside: Array | None) -> Array:
    """Channels float32 (d, h, w, c) scaled by `scaling` float32 (c, 5), the rows of which are `Scaling`s.

    inside: boolean (d, h, w), the voxels of channels that are scaled in the mask only; None scales all. NumPy or JAX.
    """
    library = jnp if isinstance(volume, jax.Array) else np
    low, high, mean, deviation, masked = scaling.T
    scaled = (library.clip(volume, low, high) - mean) / deviation
    if inside is None:
        return scaled
    return library.where(inside[..., None] | (masked == 0), scaled, volume)


def normalise(
    volume: np.ndarray,
    schemes: Sequence[str],
    mask: np.ndarray,
    use_mask: bool,
    intensity_properties: Sequence[Mapping[str, float]] | None = None,
) -> np.ndarray:
    """Scale each channel of float32 (d, h, w, c) as `find_scaling` says; returns a new array."""
    scaling = find_scaling(volume, schemes, mask, use_mask, intensity_properties)
    result = np.empty(volume.shape, np.float32)
    for c in range(len(scaling)):  # one at a time: NumPy is slow along so short an axis
        row = np.array(scaling[c : c + 1], np.float32)
        result[..., c : c + 1] = scale(volume[..., c : c + 1], row, mask if scaling[c].masked else None)
    return result


def _zscore(channel: np.ndarray, mask: np.ndarray | None, _known: Mapping[str, float] | None) -> Scaling:
    """Mean and population deviation of (d, h, w), plane by plane: each stays in cache, and sums are float64."""

    def total(of_plane: Callable[[np.ndarray], np.floating]) -> float:
        def of_slab(slab: slice) -> list[float]:
            planes = range(len(channel))[slab]
            with np.errstate(over="ignore", invalid="ignore"):  # judged below
                return [float(of_plane(channel[d] if mask is None else channel[d][mask[d]])) for d in planes]

        sums = [*itertools.chain(*over_slabs(len(channel), of_slab))]
        if not np.isfinite(sums).all():
            raise _too_large(channel)
        return math.fsum(sums)

    count = channel.size if mask is None else np.count_nonzero(mask)
    mean = total(np.sum) / count
    deviation = math.sqrt(total(lambda plane: np.square(plane - np.float32(mean)).sum()) / count)
    if deviation < SMALLEST_DEVIATION:
        raise _too_alike(channel if mask is None else channel[mask])
    return Scaling(mean=mean, deviation=deviation, masked=mask is not None)


def _zscore_bright_fluid(channel: np.ndarray, mask: np.ndarray | None, known: Mapping[str, float] | None) -> Scaling:
    """The z-score, of the negative where fluid is dark, as on T1w and FLAIR: fluid is bright, white matter dark.

    In an extracted brain fluid is one tail of the intensities, the longer one on T2w; of ten scans of five scanners
    the upper tail (median to 99th percentile) is 0.4 to 0.9 of the lower one on T1w and FLAIR, 2.5 to 2.6 on T2w.
    """
    scaling = _zscore(channel, mask, known)
    voxels = channel.ravel() if mask is None else channel[mask]
    low, median, high = np.percentile(voxels[:: max(1, len(voxels) // _ENOUGH)], (1, 50, 99))
    if high - median < _TAILS * (median - low):
        return scaling._replace(deviation=-scaling.deviation)
    return scaling


def _too_large(channel: np.ndarray) -> InputError:
    return InputError(
        "The scan's intensities are too large to be normalised.",
        expected="intensities whose squares float32 can sum (below about 1e15)",
        found=f"{float(channel.min()):.3g} to {float(channel.max()):.3g}",
        hint="look for a few wrong voxels, or divide the scan by a constant",
    )


def _too_alike(voxels: np.ndarray) -> InputError:
    return InputError(
        "The scan's intensities are too much alike to be normalised; the network would see nothing.",
        expected=f"a standard deviation of at least {SMALLEST_DEVIATION:g}",
        found=f"{float(voxels.min()):.3g} to {float(voxels.max()):.3g}" + " where it is not 0" * bool(voxels.all()),
        hint="check that this is the scan and not a mask, or multiply it by a constant",
    )


def _ct(_channel: np.ndarray, _mask: np.ndarray | None, known: Mapping[str, float] | None) -> Scaling:
    assert known is not None  # `needs_intensities`
    low, high, mean, deviation = (known[key] for key in ("percentile_00_5", "percentile_99_5", "mean", "std"))
    return Scaling(low, high, mean, max(deviation, SMALLEST_DEVIATION))


# By the name that a recipe and a prepared data set store.
SCHEMES: dict[str, Scheme] = {
    "zscore": Scheme(_zscore, ("zscore",), masked=True, nnunet_v1=("nonCT",), nnunet_v2=("ZScoreNormalization",)),
    "zscore_bright_fluid": Scheme(_zscore_bright_fluid, ("bright-fluid mri",), masked=True, extracted=True),
    "none": Scheme(
        lambda channel, mask, known: Scaling(),
        ("nonorm", "none"),
        nnunet_v1=("noNorm",),
        nnunet_v2=("NoNormalization",),
    ),
    "ct": Scheme(_ct, ("ct",), needs_intensities=True, nnunet_v1=("CT", "CT2"), nnunet_v2=("CTNormalization",)),
}
