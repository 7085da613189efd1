"""Resampling as three small matrix products, equal to nnU-Net's scikit-image resize, on NumPy or JAX arrays.

`skimage.transform.resize(x, shape, order, mode="edge", anti_aliasing=False)` is separable and linear up to its final
clip: the cubic B-spline prefilter folds into the interpolation weights, so each axis is one dense (m, n) matrix. The
same matrices serve the host (`prepare`) and the compiled inference program.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage

# scipy.ndimage.zoom pads by 12 voxels before the prefilter; its mirror boundary is then out of reach.
SPLINE_PAD = 12
# Two interpolated label scores closer than this are a tie: float32 rounding of the products, far below any real gap.
TIE = 1e-5
# nnU-Net treats the thick axis on its own above this ratio of the largest to the smallest voxel size.
ANISOTROPY = 3.0

Array = TypeVar("Array", np.ndarray, jax.Array)


@functools.lru_cache(maxsize=256)
def resize_matrix(n: int, m: int, order: int) -> np.ndarray:
    """The (m, n) float64 matrix that resamples n voxels to m over the same extent (voxel edges aligned).

    `order` 0 nearest, 1 linear, 3 cubic B-spline with its prefilter; positions beyond the ends repeat the edge voxel.
    """
    position = (np.arange(m) + 0.5) * n / m - 0.5
    matrix = np.zeros((m, n))
    rows = np.arange(m)
    if order == 0:
        matrix[rows, nearest_index(n, m)] = 1
    elif order == 1:
        position = np.clip(position, 0, n - 1)
        low = np.minimum(np.floor(position).astype(int), max(n - 2, 0))
        matrix[rows, low] = 1 - (position - low)
        matrix[rows, np.minimum(low + 1, n - 1)] += position - low
    elif order == 3:
        weights = np.zeros((m, n + 2 * SPLINE_PAD))
        low = np.floor(position).astype(int)
        for tap in range(-1, 3):
            weights[rows, low + tap + SPLINE_PAD] += _cubic_b_spline(position - (low + tap))
        padded = np.pad(np.eye(n), ((SPLINE_PAD, SPLINE_PAD), (0, 0)), "edge")
        matrix = weights @ scipy.ndimage.spline_filter1d(padded, 3, axis=0, mode="mirror")
    else:
        raise ValueError(f"order must be 0, 1 or 3, found {order}")
    matrix.flags.writeable = False  # shared by every caller through the cache
    return matrix


def nearest_index(n: int, m: int) -> np.ndarray:
    """The voxel of n that is nearest to each of m resampled voxels; between two, the later one (scipy's rule)."""
    return np.clip(np.floor((np.arange(m) + 0.5) * n / m).astype(int), 0, n - 1)


def resize(x: Array, shape: Sequence[int], order: int, thick_axis: int | None = None) -> Array:
    """Resample float `x` (d, h, w) or (d, h, w, c) to `shape` (3,); equal to nnU-Net's to float32 rounding.

    The cubic order is clipped to the range of each input channel, as scikit-image does. With `thick_axis` (see
    `find_thick_axis`) that axis is resampled with nearest neighbour after each slice across it has been resized.
    NumPy in, NumPy out; JAX in, JAX out (products at highest precision: TF32 would cost 1e-3).
    """
    matrices = [
        None if n == m else resize_matrix(n, m, 0 if axis == thick_axis else order)
        for axis, (n, m) in enumerate(zip(x.shape[:3], shape, strict=True))
    ]
    return resample(x, matrices, thick_axis, clip=order == 3)


def resample(
    x: Array,
    matrices: Sequence[np.ndarray | jax.Array | None],
    thick_axis: int | None = None,
    *,
    clip: bool,
    inside: Array | None = None,
) -> Array:
    """`x` (d, h, w) or (d, h, w, c) times one matrix (m, n) along each axis, the thick one last; None leaves an axis.

    clip: to the range of each input channel; across a thick axis each slice by itself. inside: boolean, broadcasts
    with `x`, where it holds the scan; the range is taken there. NumPy or JAX.
    """
    library = jnp if isinstance(x, jax.Array) else np
    flat = tuple(axis for axis in range(3) if axis != thick_axis)
    y = x
    for axis in flat:
        y = y if matrices[axis] is None else _along(y, matrices[axis], axis)
    if clip and y is not x:
        where = True if inside is None else inside
        lowest = x.min(axis=flat, keepdims=True, where=where, initial=np.inf)
        highest = x.max(axis=flat, keepdims=True, where=where, initial=-np.inf)
        y = library.clip(y, lowest, highest)
    if thick_axis is not None and matrices[thick_axis] is not None:
        if inside is not None:  # a slice outside has no range
            y = library.where(library.isfinite(y), y, 0)
        y = _along(y, matrices[thick_axis], thick_axis)
    return y


def resize_labels(labels: np.ndarray, shape: Sequence[int], thick_axis: int | None = None) -> np.ndarray:
    """Resample an integer label map (d, h, w) to `shape`: linear scores of each label, the largest wins.

    A tie goes to the label of the nearest voxel if it is among the tied ones, else to the lowest
    (batchgenerators 0.25.5 `resize_segmentation`).
    """
    if labels.shape == tuple(shape):
        return labels
    flat_shape = [labels.shape[a] if a == thick_axis else shape[a] for a in range(3)]
    values = np.unique(labels)
    grid = np.ix_(*(nearest_index(n, m) for n, m in zip(labels.shape, flat_shape, strict=True)))
    nearest = labels[grid]
    winner = np.full(flat_shape, values[0], labels.dtype)
    best = np.full(flat_shape, -1, np.float32)
    nearest_leads = np.zeros(flat_shape, bool)
    for value in values:
        score = resize((labels == value).astype(np.float32), flat_shape, 1)
        ahead, level = score > best + TIE, np.abs(score - best) <= TIE
        winner[ahead] = value
        nearest_leads &= ~ahead
        nearest_leads |= (ahead | level) & (nearest == value)
        np.maximum(best, score, out=best)
    result = np.where(nearest_leads, nearest, winner)
    if thick_axis is not None:
        result = result.take(nearest_index(labels.shape[thick_axis], shape[thick_axis]), axis=thick_axis)
    return result


def find_thick_axis(spacing: Sequence[float], target: Sequence[float]) -> int | None:
    """The axis that nnU-Net resamples slice-wise: the single coarsest one, if it is over 3 x the finest.

    The current spacing decides; if it is not anisotropic, the target does.
    """
    for sizes in (np.asarray(spacing, float), np.asarray(target, float)):
        if sizes.max() / sizes.min() > ANISOTROPY:
            coarsest = np.flatnonzero(sizes == sizes.max())
            return int(coarsest[0]) if len(coarsest) == 1 else None
    return None


def resampled_shape(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> tuple[int, int, int]:
    """The shape at `target` spacing of a volume of `shape` at `spacing` (mm); nnU-Net's rounding (half to even)."""
    d, h, w = (max(1, round(n * s / t)) for n, s, t in zip(shape, spacing, target, strict=True))
    return d, h, w


def _along(x: Array, matrix: Any, axis: int) -> Array:
    if isinstance(x, jax.Array):
        # Highest precision: TF32 and bfloat16 products would cost 1e-3.
        product = jnp.tensordot(jnp.asarray(matrix, x.dtype), x, axes=(1, axis), precision=jax.lax.Precision.HIGHEST)
        return jnp.moveaxis(product, 0, axis)
    return np.moveaxis(np.tensordot(matrix.astype(x.dtype), x, axes=(1, axis)), 0, axis)


def _cubic_b_spline(u: np.ndarray) -> np.ndarray:
    u = np.abs(u)
    return np.where(u < 1, 2 / 3 - u**2 + u**3 / 2, np.where(u < 2, (2 - u) ** 3 / 6, 0))
