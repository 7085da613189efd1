"""The depthwise sums as products with banded matrices along w: the form for TPUs, whose speed is in matrix products.

A row of W voxels times a band (W, W') that holds the taps of one channel on its diagonals is that row correlated. So
a depthwise convolution in three dimensions is one in (d, h) whose features are the voxels of a row and whose groups
are the channels. Most products are with zeros; a matrix unit makes all of them in a tenth of the cycles that a vector
unit needs for the others (by the compiler's own count: docs/scale.md). The compiler then lays out rows innermost,
which fills the lanes that 32 channels leave empty.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array, lax

from mednext_jax.ops.pointwise import precision_for


def correlate_rows(
    x: Array, kernel: Array, bias: Array, stride: int, before: Sequence[int], extents: Sequence[int]
) -> Array:
    """y[n, o, c] = bias[c] + sum_t x[n, stride o + t - before, c] kernel[t, c], x being 0 outside the volume.

    `x` (n, d, h, w, c), `kernel` (kd, kh, kw, c), `bias` (c,), `before` and `extents` (3,) -> (n, *extents, c) in x's
    type; sums are float32.
    """
    i, o = _grid(x.shape[3], extents[2])
    return _convolve_rows(x, kernel, bias, i - stride * o + before[2], stride, 1, before, extents)


def scatter_rows(
    x: Array, kernel: Array, bias: Array, stride: int, origins: Sequence[int], extents: Sequence[int]
) -> Array:
    """y[n, stride i + t - origin, c] += x[n, i, c] kernel[t, c] on a grid of `extents`, from the bias on; as above."""
    i, o = _grid(x.shape[3], extents[2])
    before = [size - 1 - origin for size, origin in zip(kernel.shape, origins, strict=False)]
    return _convolve_rows(x, kernel[::-1, ::-1], bias, o - stride * i + origins[2], 1, stride, before, extents)


def kernel_gradient_rows(x: Array, g: Array, sizes: Sequence[int], stride: int, before: Sequence[int]) -> Array:
    """The gradient of sum(g correlate_rows(x, kernel, stride, before)) by a kernel of `sizes` (3,), float32."""
    spans = [stride * (m - 1) + 1 for m in g.shape[1:3]]
    bands = lax.conv_general_dilated(
        _rows(x),
        _rows(g),
        (1, 1),
        [_around(m, span, b, size, 1) for m, span, b, size in zip(x.shape[1:3], spans, before, sizes, strict=False)],
        rhs_dilation=(stride, stride),
        dimension_numbers=("CHWN", "IHWO", "NHWC"),  # sums over the samples, too
        batch_group_count=x.shape[-1],
        precision=precision_for(x),
        preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
    )
    bands = bands.reshape(*bands.shape[:3], x.shape[-1], -1)  # (w, kd, kh, c, w')
    i, o = _grid(x.shape[3], g.shape[3])
    tap = (i - stride * o + before[2])[:, None, None, None, :]
    return jnp.stack([jnp.where(tap == t, bands, 0).sum((0, 4)) for t in range(sizes[2])], axis=2)


def _convolve_rows(
    x: Array,
    kernel: Array,
    bias: Array,
    tap: Array,
    stride: int,
    dilation: int,
    before: Sequence[int],
    extents: Sequence[int],
) -> Array:
    """`tap` (w, w'): in which tap of the kernel's third axis each voxel of a row of x meets each of the result."""
    n, *_, c = x.shape
    taps = kernel.astype(x.dtype)[:, :, :, None, :, None]
    diagonals = (jnp.where(tap[:, None, :] == t, taps[:, :, t], 0) for t in range(kernel.shape[2]))
    band = functools.reduce(jnp.add, diagonals)  # (kd, kh, w, c, w')
    spans = [dilation * (m - 1) + 1 for m in x.shape[1:3]]
    y = lax.conv_general_dilated(
        _rows(x),
        band.reshape(*band.shape[:3], -1),
        (stride, stride),
        [_around(*axis, stride) for axis in zip(spans, kernel.shape, before, extents, strict=False)],
        lhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=c,
        precision=precision_for(x),
        preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
    )
    y = y.reshape(n, *extents[:2], c, extents[2]) + bias[:, None]
    return jnp.swapaxes(y.astype(x.dtype), 3, 4)  # rounded before the layout may change


def _rows(x: Array) -> Array:
    """(n, d, h, w, c) -> (n, d, h, c w)."""
    return jnp.swapaxes(x, 3, 4).reshape(*x.shape[:3], -1)


def _grid(n_in: int, n_out: int) -> tuple[Array, Array]:
    """The indices of both voxels of each pair of a row's input and output, (n_in, n_out) twice."""
    shape = (n_in, n_out)
    return lax.broadcasted_iota(jnp.int32, shape, 0), lax.broadcasted_iota(jnp.int32, shape, 1)


def _around(span: int, size: int, before: int, extent: int, stride: int) -> tuple[int, int]:
    """Zeros before and after `span` voxels so that a kernel of `size` yields `extent`; below 0, voxels left out."""
    return before, stride * (extent - 1) + size - span - before
