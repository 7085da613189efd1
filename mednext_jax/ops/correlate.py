"""Depthwise correlation on a padded volume, and its kernel gradient: the two sums every depthwise op is made of.

    correlate(x, w, b, s, pad)[n, i, c]    = b[c] + sum_t xp[n, s i + t, c] w[t, c]
    kernel_gradient(x, g, k, s, pad)[t, c] = sum_ni xp[n, s i + t, c] g[n, i, c]      xp: x with zeros around

Which form is fast depends on the device, by a factor of ten to a hundred, so `_FORMS` picks one per platform.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax

Padding = Sequence[tuple[int, int]]
_DIMENSIONS = ("NDHWC", "DHWIO", "NDHWC")


def correlate(x: Array, kernel: Array, bias: Array | None, stride: int, padding: Padding) -> Array:
    """`x` (n, d, h, w, c), `kernel` (kd, kh, kw, c), `bias` (c,) or none, `padding` (lo, hi) voxels an axis.

    Returns (n, d', h', w', c) in x's type; sums are float32.
    """
    return lax.platform_dependent(
        x,
        kernel.astype(x.dtype),
        jnp.zeros(x.shape[-1:]) if bias is None else bias,
        cpu=lambda x, k, b: _correlate_scan(x, k, b, stride, padding),
        default=lambda x, k, b: _correlate_grouped(x, k, b, stride, padding),
    )


def kernel_gradient(x: Array, g: Array, sizes: Sequence[int], stride: int, padding: Padding) -> Array:
    """`x` (n, d, h, w, c), `g` (n, d', h', w', c), kernel `sizes` (3,) -> (kd, kh, kw, c) float32."""
    return lax.platform_dependent(
        x,
        g,
        cpu=lambda x, g: _kernel_gradient_scan(x, g, sizes, stride, padding),
        default=lambda x, g: _kernel_gradient_grouped(x, g, sizes, stride, padding),
    )


def _pad(x: Array, padding: Padding) -> Array:
    return jnp.pad(x, ((0, 0), *padding, (0, 0)))


def _window(slab: Array, i: int, j: int, h: int, w: int, stride: int) -> Array:
    """What tap (i, j) of a plane meets: the voxels (i, j) + stride * (0 .. h-1, 0 .. w-1) of each plane."""
    return slab[:, :, i : i + stride * (h - 1) + 1 : stride, j : j + stride * (w - 1) + 1 : stride]


def _extents(x: Array, sizes: Sequence[int], stride: int, padding: Padding) -> list[int]:
    whole = [x.shape[1 + a] + sum(padding[a]) for a in range(3)]
    return [(n - k) // stride + 1 for n, k in zip(whole, sizes, strict=True)]


def _depth_slab(padded: Array, tap: Array, extent: int, stride: int) -> Array:
    """The planes that depth tap `tap` meets; (n, extent, h, w, c) before the slices along h and w."""
    slab = lax.dynamic_slice_in_dim(padded, tap, stride * (extent - 1) + 1, axis=1)
    return lax.slice_in_dim(slab, 0, slab.shape[1], stride, axis=1)


def _correlate_scan(x: Array, kernel: Array, bias: Array, stride: int, padding: Padding) -> Array:
    """One pass per depth tap; the kh * kw shifted products of a pass fuse into one vectorised loop."""
    kd, kh, kw, c = kernel.shape
    d, h, w = _extents(x, kernel.shape[:3], stride, padding)
    padded = _pad(x, padding)

    def add_plane(total: Array, tap: Array) -> tuple[Array, None]:
        slab = _depth_slab(padded, tap, d, stride)
        for i, j in itertools.product(range(kh), range(kw)):
            shifted = _window(slab, i, j, h, w, stride)
            total = total + shifted.astype(jnp.float32) * kernel[tap, i, j].astype(jnp.float32)
        return total, None

    total = jnp.broadcast_to(bias.astype(jnp.float32), (x.shape[0], d, h, w, c))
    return lax.scan(add_plane, total, jnp.arange(kd))[0].astype(x.dtype)


def _kernel_gradient_scan(x: Array, g: Array, sizes: Sequence[int], stride: int, padding: Padding) -> Array:
    kd, kh, kw = sizes
    d, h, w = g.shape[1:4]
    padded = _pad(x, padding)
    g = g.astype(jnp.float32)

    def plane(_: None, tap: Array) -> tuple[None, Array]:
        slab = _depth_slab(padded, tap, d, stride)
        sums = []
        for i, j in itertools.product(range(kh), range(kw)):
            shifted = _window(slab, i, j, h, w, stride)
            sums.append(jnp.sum(shifted.astype(jnp.float32) * g, axis=(0, 1, 2, 3)))
        return None, jnp.stack(sums).reshape(kh, kw, -1)

    return lax.scan(plane, None, jnp.arange(kd))[1]


def _convolve(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel[:, :, :, None, :],
        window_strides=(stride,) * 3,
        padding=padding,
        dimension_numbers=_DIMENSIONS,
        feature_group_count=x.shape[-1],
    )


def _correlate_grouped(x: Array, kernel: Array, bias: Array, stride: int, padding: Padding) -> Array:
    return (_convolve(x, kernel, stride, padding) + bias).astype(x.dtype)


def _kernel_gradient_grouped(x: Array, g: Array, sizes: Sequence[int], stride: int, padding: Padding) -> Array:
    kernel = jax.ShapeDtypeStruct((*sizes, x.shape[-1]), x.dtype)
    transpose = jax.linear_transpose(lambda k: _convolve(x, k, stride, padding), kernel)
    return transpose(g)[0].astype(jnp.float32)
