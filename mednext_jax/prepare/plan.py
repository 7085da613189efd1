"""What a data set decides for all its scans: target spacing, mask for the z-score, foreground intensities (nnU-Net)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mednext_jax.ops.resample import ANISOTROPY
from mednext_jax.preprocess.crop import EXTRACTED_SHARE
from mednext_jax.preprocess.normalise import for_extracted_brains, uses_mask

# Below this median share of the scan, the non-zero box means skull-stripped images: z-score inside the mask.
CROPPED_SHARE = 0.75
# Foreground voxels drawn from the whole data set for the statistics of a CT channel (nnU-Net draws 10^8).
INTENSITY_SAMPLES = 10**7
SEED = 1234


def use_mask_for_norm(relative_sizes: Sequence[float], schemes: Sequence[str]) -> bool:
    """nnU-Net's rule: z-score inside the non-zero mask if cropping removes a quarter of the median scan.

    A scheme for extracted brains takes the mask of scans without much around them, too: as its model's other scans.
    """
    cropped = float(np.median(relative_sizes)) < CROPPED_SHARE
    return uses_mask(schemes) and (cropped or for_extracted_brains(schemes))


def brain_extracted(zero_fractions: Sequence[float], relative_sizes: Sequence[float]) -> bool:
    """Whether the training scans are of extracted brains: the median share of zeros in the box that is not all zero.

    `zero_fractions`: zeros over all voxels of each scan. `relative_sizes`: voxels of the box over all.
    """
    inside = 1 - np.asarray(zero_fractions), np.asarray(relative_sizes)
    return bool(1 - np.median(inside[0] / inside[1]) >= EXTRACTED_SHARE)


def median_spacing(spacings: Sequence[Sequence[float]], shapes: Sequence[Sequence[int]]) -> tuple[float, float, float]:
    """nnU-Net's target spacing (mm) from the spacings (n, 3) and cropped shapes (n, 3) of the scans.

    The median along each axis; along an axis of thick slices (over 3 x the others in spacing and under a third in
    voxels) the 10th percentile, but not finer than the other axes.
    """
    target = np.median(np.asarray(spacings, float), axis=0)
    shape = np.median(np.asarray(shapes, float), axis=0)
    worst = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != worst]
    if target[worst] > ANISOTROPY * target[others].max() and shape[worst] * ANISOTROPY < shape[others].min():
        finer = float(np.percentile(np.asarray(spacings, float)[:, worst], 10))
        coarsest = float(target[others].max())
        target[worst] = finer if finer >= coarsest else coarsest + 1e-5
    d, h, w = (float(size) for size in target)
    return d, h, w


def draw_intensities(volume: np.ndarray, label: np.ndarray, cases: int) -> np.ndarray:
    """One case's share of the foreground intensities: (n, c), drawn with replacement from voxels with label > 0."""
    values = volume[label > 0]
    if not len(values):
        return values
    random = np.random.RandomState(SEED)
    return values[random.randint(0, len(values), INTENSITY_SAMPLES // cases)]


def intensity_properties(drawn: Sequence[np.ndarray]) -> tuple[dict[str, float], ...]:
    """The statistics of each channel that the "ct" scheme uses, from the draws of all cases."""
    values = np.concatenate(drawn)  # (n, c)
    found = []
    for channel in values.T:
        low, median, high = np.percentile(channel, (0.5, 50, 99.5))
        found.append(
            {
                "mean": float(channel.mean(dtype=np.float64)),
                "median": float(median),
                "std": float(channel.std(dtype=np.float64)),
                "min": float(channel.min()),
                "max": float(channel.max()),
                "percentile_00_5": float(low),
                "percentile_99_5": float(high),
            }
        )
    return tuple(found)
