"""Kernel gradients of depthwise convolutions, summed back from the banded matrices that their kernels work with."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

TILE = 8  # outputs of a tile along w
FINE_WINDOW = 32  # inputs that a tile at stride 2 reads
LEAD = 4  # inputs before a tile's first one at which the window of a strided kernel starts


def lead(low: int) -> int:
    """How far behind its window's start a tile at stride 1 begins: windows start at a multiple of 4."""
    return low - low // 4 * 4


def fold(partial: Array, low: int) -> Array:
    """(programs, c, k, k, 16, 8) -> the kernel's gradient (k, k, k, c) of stride 1."""
    return _gather(partial.sum(0), 1, lead(low))


def gather_fold(partial: Array, offset: int) -> Array:
    """(programs, c, k, k, 32, 8) -> the kernel's gradient (k, k, k, c) of stride 2."""
    p = partial.shape[2] // 2
    return _gather(partial.sum(0), 2, offset - p + LEAD)


def _gather(products: Array, stride: int, first: int) -> Array:
    """`products` (c, k, k, i, o) is window^T output; tap t is the sum of the diagonal i = stride o + first + t."""
    k = products.shape[1]
    o = jnp.arange(products.shape[-1])
    taps = [products[..., stride * o + first + t, o].sum(-1) for t in range(k)]
    return jnp.stack(taps, -1).transpose(1, 2, 3, 0)
