"""Rows of depthwise taps as banded matrices, and kernel gradients summed back from them."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

TILE = 8  # outputs of a tile along w
WINDOW = 16  # inputs that a tile at stride 1 reads
FINE_WINDOW = 32  # inputs that a tile at stride 2 reads
LEAD = 4  # inputs before a tile's first one at which the window of a strided kernel starts


def lead(low: int) -> int:
    """How far behind its window's start a tile at stride 1 begins: windows start at a multiple of 4."""
    return low - low // 4 * 4


def band(kernel: Array, low: int, dtype: jnp.dtype) -> Array:
    """`kernel` (k, k, k, c) -> (c, k, k, 16, 8): column o holds the row's taps from position o + lead(low)."""
    return _spread(kernel, WINDOW, TILE, lambda i, o: i - o - lead(low), dtype)


def gather_band(kernel: Array, offset: int, dtype: jnp.dtype) -> Array:
    """For stride 2, (c, k, k, 32, 8): column o holds the taps from position 2 o + offset - k // 2 + 4."""
    p = kernel.shape[0] // 2
    return _spread(kernel, FINE_WINDOW, TILE, lambda i, o: i - 2 * o - offset + p - LEAD, dtype)


def scatter_band(kernel: Array, offset: int, dtype: jnp.dtype) -> Array:
    """For transposed stride 2, (c, k, k, 16, 16): input 4 + i meets outputs 2 i + offset + t - k // 2."""
    p = kernel.shape[0] // 2
    return _spread(kernel, WINDOW, 2 * TILE, lambda i, o: o - offset - 2 * (i - LEAD) + p, dtype)


def fold(partial: Array, low: int) -> Array:
    """(programs, c, k, k, 16, 8) -> the kernel's gradient (k, k, k, c) of stride 1."""
    return _gather(partial.sum(0), 1, lead(low))


def gather_fold(partial: Array, offset: int) -> Array:
    """(programs, c, k, k, 32, 8) -> the kernel's gradient (k, k, k, c) of stride 2."""
    p = partial.shape[2] // 2
    return _gather(partial.sum(0), 2, offset - p + LEAD)


def _spread(kernel: Array, rows: int, columns: int, tap_of: Callable[[Array, Array], Array], dtype: jnp.dtype) -> Array:
    k = kernel.shape[0]
    tap = tap_of(jnp.arange(rows)[:, None], jnp.arange(columns)[None, :])  # (rows, columns)
    spread = kernel[:, :, jnp.clip(tap, 0, k - 1)]  # (k, k, rows, columns, c)
    spread = jnp.where(((tap >= 0) & (tap < k))[..., None], spread, 0)
    return spread.transpose(4, 0, 1, 2, 3).astype(dtype)


def _gather(products: Array, stride: int, first: int) -> Array:
    """`products` (c, k, k, i, o) is window^T output; tap t is the sum of the diagonal i = stride o + first + t."""
    k = products.shape[1]
    o = jnp.arange(products.shape[-1])
    taps = [products[..., stride * o + first + t, o].sum(-1) for t in range(k)]
    return jnp.stack(taps, -1).transpose(1, 2, 3, 0)
