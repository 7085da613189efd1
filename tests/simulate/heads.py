"""A small head of known parts: a region map of FreeSurfer's numbers, and scans of it."""

from __future__ import annotations

import nibabel as nib
import numpy as np

SIGNALS = {
    "T1w": {"white": 1000.0, "grey": 600.0, "fluid": 200.0},
    "T2w": {"white": 400.0, "grey": 500.0, "fluid": 1200.0},
}
AFFINE = np.diag([-1.2, 1.2, 1.0, 1.0])
AFFINE[:3, 3] = 40, -50, -30


def region_map(shape=(64, 64, 60)) -> np.ndarray:
    """Nested ellipsoids: cortex 3/42, white matter 2/41, in it ventricles 4/43, putamen 12/51, hippocampus 17/53, and
    brainstem 16."""
    at = np.indices(shape).astype(float)
    middle = (np.array(shape) - 1) / 2

    def ball(centre, radius):
        return sum(((at[a] - centre[a]) / radius[a]) ** 2 for a in range(3)) <= 1

    x, y, z = middle
    values = np.zeros(shape, np.int16)
    values[ball(middle, middle - 3)] = 3
    values[ball(middle, middle - 8)] = 2
    values[ball((x, y, z + 5), (7, 9, 4))] = 4
    for side in (-1, 1):
        values[ball((x + 13 * side, y, z - 4), (6, 9, 7))] = 12
        values[ball((x + 11 * side, y - 14, z - 8), (5, 6, 5))] = 17
    values[ball((x, y, z - 14), (6, 6, 9))] = 16
    # The first axis goes to the left: its second half is the left side, as the first is of FreeSurfer's right numbers.
    right = np.arange(shape[0])[:, None, None] < x
    for left, other in ((3, 42), (2, 41), (4, 43), (12, 51), (17, 53)):
        values[(values == left) & right] = other
    return values


def scan_of(values: np.ndarray, contrast: str = "T1w", noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """The signal of each part; 0 outside of the head."""
    signals = SIGNALS[contrast]
    scan = np.full(values.shape, signals["white"])
    scan[np.isin(values, (3, 42, 12, 51, 17, 53))] = signals["grey"]
    scan[np.isin(values, (4, 43))] = signals["fluid"]
    scan += noise * np.random.default_rng(seed).standard_normal(values.shape)
    return np.where(values > 0, np.maximum(scan, 1), 0).astype(np.float32)


def save(path, array, affine=AFFINE):
    nib.Nifti1Image(array, affine).to_filename(path)
    return path


def head_map() -> np.ndarray:
    """`region_map` at 1 mm on RAS axes (d, h, w), larger, in a head (516) with air around."""
    shape = (90, 90, 86)
    values = np.zeros(shape, np.int16)
    at, middle = np.indices(shape).astype(float), (np.array(shape) - 1) / 2
    values[sum(((at[a] - middle[a]) / (middle[a] - 1)) ** 2 for a in range(3)) <= 1] = 516
    brain = region_map((76, 76, 72))
    inner = values[7:-7, 7:-7, 7:-7]
    inner[brain > 0] = brain[brain > 0]
    return np.ascontiguousarray(values[::-1].transpose(2, 1, 0))
