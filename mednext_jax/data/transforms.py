"""Augmentation transforms of one sample with given parameters, as jittable functions of fixed shape.

`image`: (d, h, w, c) float32; `label`: (d, h, w) integers, -1 outside the scan. Each equals its namesake in
batchgeneratorsv2 0.3 for the same parameters. Blur and loss of resolution are one dense matrix per axis: cheap at
patch sizes on every device, and with no gather, which TPUs do slowly.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import jax
import jax.numpy as jnp

OUTSIDE = -1
_CORNERS = list(product((0, 1), repeat=3))  # of a voxel, (d, h, w)


def centre_crop(x: jax.Array, size: Sequence[int]) -> jax.Array:
    """The middle `size` (d, h, w) voxels of `x`; the first three axes are cropped."""
    starts = [n // 2 - p // 2 for n, p in zip(x.shape, size, strict=False)]
    return x[tuple(slice(a, a + p) for a, p in zip(starts, size, strict=True))]


def affine_matrix(angles: jax.Array, scales: jax.Array) -> jax.Array:
    """(3, 3): Rz(angles[2]) Ry(angles[1]) Rx(angles[0]) diag(scales), radians, about the axes d, h, w.

    Source: batchgeneratorsv2 `create_affine_matrix_3d`.
    """
    (a, b, c), (s, t, u) = jnp.cos(angles), jnp.sin(angles)
    x = jnp.array([[1, 0, 0], [0, a, -s], [0, s, a]])
    y = jnp.array([[b, 0, t], [0, 1, 0], [-t, 0, b]])
    z = jnp.array([[c, -u, 0], [u, c, 0], [0, 0, 1]])
    with jax.default_matmul_precision("highest"):
        return z @ y @ x @ jnp.diag(scales)


def affine(
    image: jax.Array, label: jax.Array, matrix: jax.Array, size: Sequence[int], labels: Sequence[int]
) -> tuple[jax.Array, jax.Array]:
    """The patch of `size` about the centre, voxel o taken from `matrix` (o - centre) + centre.

    The image is trilinear with 0 outside. The label is the one of `labels` with the largest trilinear weight,
    `OUTSIDE` competing with them outside; a tie goes to the nearest voxel's label.
    Source: batchgeneratorsv2 `SpatialTransform`.
    """
    steps = [jnp.arange(p, dtype=jnp.float32) - (p - 1) / 2 for p in size]
    axes = jnp.meshgrid(*steps, indexing="ij")
    where = [
        sum(matrix[i, j] * axes[j] for j in range(3)) + (label.shape[i] - 1) / 2 for i in range(3)
    ]  # 3 x (d, h, w)
    low = [jnp.floor(c) for c in where]
    fraction = [c - f for c, f in zip(where, low, strict=True)]
    # With two voxels of nothing around the volume, every corner is in it, however far outside.
    at = [(jnp.clip(f, -2, n) + 2).astype(jnp.int32) for f, n in zip(low, label.shape, strict=True)]
    _, rows, columns = (n + 4 for n in label.shape)
    index = (at[0] * rows + at[1]) * (columns - 1) + at[2]

    # Both neighbours along w come by one look-up, and so do the labels of all corners: reading is what this costs.
    around = jnp.pad(jnp.moveaxis(image, -1, 0), ((0, 0), *[(2, 2)] * 3))
    pairs = jnp.stack([around[..., :-1], around[..., 1:]], 1).reshape(len(around), 2, -1)  # (c, 2, voxels)
    candidates = (OUTSIDE, *labels)
    marks = _corner_labels(label, candidates, index)
    total = jnp.zeros((len(around), *size), image.dtype)
    votes = [jnp.zeros(size, jnp.float32) for _ in candidates]
    for first in range(0, len(_CORNERS), 2):
        d, h, _ = _CORNERS[first]
        ahead = index + (d * rows + h) * (columns - 1)
        values = jnp.stack([_look_up(pair, ahead) for pair in pairs])
        for k in (0, 1):
            corner = _CORNERS[first + k]
            weight = jnp.ones(size, jnp.float32)
            for part, far in zip(fraction, corner, strict=True):
                weight *= part if far else 1 - part
            total += weight * values[:, k]
            votes = [v + weight * (marks[first + k] == c) for c, v in enumerate(votes)]
    rounded = [jnp.round(c) > f for c, f in zip(where, low, strict=True)]  # the nearest corner
    nearest = jnp.zeros(size, jnp.int32)
    for corner, mark in zip(_CORNERS, marks, strict=True):
        here = jnp.ones(size, bool)
        for up, far in zip(rounded, corner, strict=True):
            here &= up == bool(far)
        nearest = jnp.where(here, mark, nearest)
    best = jnp.max(jnp.stack(votes), 0)
    chosen = jnp.full(size, OUTSIDE, label.dtype)
    for vote, candidate in reversed(list(zip(votes, candidates, strict=True))):
        chosen = jnp.where(vote == best, jnp.asarray(candidate, label.dtype), chosen)
    for k, (vote, candidate) in enumerate(zip(votes, candidates, strict=True)):
        chosen = jnp.where((vote == best) & (nearest == k), jnp.asarray(candidate, label.dtype), chosen)
    return jnp.moveaxis(total, 0, -1), chosen


def _corner_labels(label: jax.Array, candidates: Sequence[int], index: jax.Array) -> list[jax.Array]:
    """Which of `candidates` the eight corners from each voxel of `index` on are, in the order of _CORNERS."""
    which = jnp.zeros(label.shape, jnp.uint32)  # candidate 0 is outside
    for k, candidate in enumerate(candidates):
        which = jnp.where(label == candidate, jnp.uint32(k), which)
    which = jnp.pad(which, ((2, 3), (2, 3), (2, 2)))
    d, h, w = (n - 1 for n in which.shape)
    bits = max(len(candidates) - 1, 1).bit_length()
    fit = 32 // bits
    found = []
    for first in range(0, len(_CORNERS), fit):
        some = _CORNERS[first : first + fit]
        word = jnp.zeros((d, h, w), jnp.uint32)
        for n, (i, j, k) in enumerate(some):
            word |= which[i : i + d, j : j + h, k : k + w] << (bits * n)
        read = _look_up(word.reshape(-1), index)
        found += [(read >> (bits * n) & (2**bits - 1)).astype(jnp.int32) for n in range(len(some))]
    return found


def _look_up(columns: jax.Array, index: jax.Array) -> jax.Array:
    """`columns` (..., voxels) at each `index`, which is within."""
    return columns.at[..., index].get(mode="promise_in_bounds")


def blur(image: jax.Array, sigma: jax.Array) -> jax.Array:
    """Gaussian blur with `sigma` (c, 3) voxels per channel and axis, at most 1.2; borders are reflected.

    The kernel has round-to-odd(6 sigma + 1/2) taps, normalised. Source: batchgeneratorsv2 `GaussianBlurTransform`.
    """

    def matrix(n: int, sigma: jax.Array) -> jax.Array:
        width = 6 * sigma + 0.5
        taps = jnp.round(width)
        taps = jnp.where(taps % 2 == 1, taps, jnp.where(width >= taps, taps + 1, taps - 1))
        offset = jnp.arange(-3, 4, dtype=jnp.float32)
        weight = jnp.where(jnp.abs(offset) <= (taps - 1) / 2, jnp.exp(-0.5 * (offset / sigma) ** 2), 0)
        weight /= weight.sum()
        source = jnp.arange(n)[:, None] + jnp.arange(-3, 4)  # (n, taps)
        source = jnp.abs(source)
        source = jnp.where(source >= n, 2 * (n - 1) - source, source)
        return jnp.sum(jax.nn.one_hot(source, n) * weight[:, None], 1)

    return _along_axes(image, matrix, sigma)


def low_resolution(image: jax.Array, scale: jax.Array) -> jax.Array:
    """Sampled down to `scale` (c,) of the extent by nearest neighbour, and back up linearly.

    Source: batchgeneratorsv2 `SimulateLowResolutionTransform` ("nearest-exact", then trilinear).
    """

    def matrix(n: int, scale: jax.Array) -> jax.Array:
        few = jnp.maximum(jnp.round(n * scale), 1)
        where = jnp.maximum((jnp.arange(n) + 0.5) * (few / n) - 0.5, 0)
        low = jnp.floor(where)

        def kept(index: jax.Array) -> jax.Array:  # which voxel the down-sampled one is
            source = jnp.floor((jnp.minimum(index, few - 1) + 0.5) * (n / few))
            return jax.nn.one_hot(source.astype(jnp.int32), n)

        part = (where - low)[:, None]
        return (1 - part) * kept(low) + part * kept(low + 1)

    return _along_axes(image, matrix, jnp.broadcast_to(scale[:, None], (image.shape[-1], 3)))


def _along_axes(image: jax.Array, matrix, parameter: jax.Array) -> jax.Array:
    """Apply the (n, n) `matrix(n, parameter[c, axis])` along each axis of each channel."""
    for axis, pattern in enumerate(("cij,jhwc->ihwc", "cij,djwc->diwc", "cij,dhjc->dhic")):
        n = image.shape[axis]
        each = jax.vmap(lambda p, n=n: matrix(n, p))(parameter[:, axis])  # (c, n, n)
        image = jnp.einsum(pattern, each, image, precision="highest")
    return image


def contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Spread about the mean by `factor` (c,), clipped to the channel's own range."""
    mean, low, high = (f(image, (0, 1, 2)) for f in (jnp.mean, jnp.min, jnp.max))
    return jnp.clip((image - mean) * factor + mean, low, high)


def gamma(image: jax.Array, exponent: jax.Array) -> jax.Array:
    """The range to the power `exponent` (c,); each channel keeps its mean and standard deviation."""
    axes, tiny = (0, 1, 2), 1e-7
    mean, deviation = jnp.mean(image, axes), jnp.std(image, axes, ddof=1)
    low = jnp.min(image, axes)
    span = jnp.max(image, axes) - low
    image = ((image - low) / jnp.maximum(span, tiny)) ** exponent * span + low
    now = jnp.maximum(jnp.std(image, axes, ddof=1), tiny)
    return (image - jnp.mean(image, axes)) * (deviation / now) + mean
