"""Depthwise correlation on a padded volume, and its kernel gradient: the two sums every depthwise op is made of.

    correlate(x, w, b, s, pad)[n, i, c]    = b[c] + sum_t xp[n, s i + t, c] w[t, c]
    kernel_gradient(x, g, k, s, pad)[t, c] = sum_ni xp[n, s i + t, c] g[n, i, c]      xp: x with zeros around

Which form is fast depends on the device, by a factor of ten to a hundred:

    blocks   (CPU) blocks of planes that stay in cache; the products of many taps fuse into one vectorised loop
    banded   (TPU, AMD GPU) products with banded matrices (ops.banded); for a TPU by the compiler's estimates, for an
             AMD GPU because libraries' grouped convolutions are slow in three dimensions; measured on neither
    grouped  (NVIDIA GPU) XLA's convolution with one group per channel
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array, lax

from mednext_jax.ops import banded
from mednext_jax.ops.pointwise import precision_for

Form = Literal["blocks", "banded", "grouped"]
_FORMS: dict[str, Form] = {"cpu": "blocks", "tpu": "banded", "gpu": "grouped", "rocm": "banded"}
Padding = tuple[tuple[int, int], ...]

# A block of planes, as float32 output: stays in the second-level cache.
_BLOCK_BYTES = 2**21
# XLA's CPU loops vectorise sums of up to about this many products (125: not, and eight times slower) ...
_MOST_PRODUCTS = 49
# ... and only of operands read at fixed offsets: a dynamic slice that fewer products than this share is
# computed inside their loop, which then runs one element at a time.
_FEWEST_PRODUCTS = 16


def form_for(platform: str | None = None) -> Form:
    """The fast form on "cpu", "gpu" (NVIDIA), "rocm" (AMD) or "tpu"; none is JAX's default backend."""
    return _FORMS[platform or jax.default_backend()]


# Compiled functions, so that the many blocks of one shape are traced once.
@functools.partial(jax.jit, static_argnames=("stride", "padding", "form"))
def correlate(x: Array, kernel: Array, bias: Array | None, stride: int, padding: Padding, form: Form) -> Array:
    """`x` (n, d, h, w, c), `kernel` (kd, kh, kw, c), `bias` (c,) or none, `padding` (lo, hi) voxels per axis.

    Returns (n, d', h', w', c) in x's type; sums are float32.
    """
    if bias is None:
        bias = jnp.zeros(x.shape[-1:], kernel.dtype)
    if form == "banded":
        before = [lo for lo, _ in padding]
        padded_extents = [n + lo + hi for n, (lo, hi) in zip(x.shape[1:4], padding, strict=True)]
        extents = _out_extents(padded_extents, kernel.shape[:3], stride)
        return banded.correlate_rows(x, kernel, bias, stride, before, extents)
    padded = _pad(x, padding)
    kernel = kernel.astype(x.dtype)
    if form == "grouped":
        return (_convolve(padded, kernel, stride) + bias).astype(x.dtype)
    return _correlate_blocks(padded, kernel, bias, stride)


@functools.partial(jax.jit, static_argnames=("sizes", "stride", "padding", "form"))
def kernel_gradient(x: Array, g: Array, sizes: tuple[int, ...], stride: int, padding: Padding, form: Form) -> Array:
    """`x` (n, d, h, w, c), `g` (n, d', h', w', c), kernel `sizes` (3,) -> (kd, kh, kw, c) float32."""
    if form == "banded":
        return banded.kernel_gradient_rows(x, g, sizes, stride, [lo for lo, _ in padding])
    padded = _pad(x, padding)
    if form == "blocks":
        return _kernel_gradient_blocks(padded, g, sizes, stride)
    kernel = jax.ShapeDtypeStruct((*sizes, x.shape[-1]), x.dtype)
    transpose = jax.linear_transpose(lambda k: _convolve(padded, k, stride), kernel)
    return transpose(g)[0].astype(_sum_type(x))


def _pad(x: Array, padding: Padding) -> Array:
    """Zeros around the volume; below 0, voxels of it are left out."""
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((lo, hi, 0) for lo, hi in padding), (0, 0, 0)))


def _convolve(padded: Array, kernel: Array, stride: int) -> Array:
    return lax.conv_general_dilated(
        padded,
        kernel[:, :, :, None, :],
        window_strides=(stride,) * 3,
        padding="VALID",
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        feature_group_count=padded.shape[-1],
        precision=precision_for(padded),
    )


def _add_products(total: Array, slab: Array, kernel: Array, stride: int) -> Array:
    """`total` (n, d, h, w, c) plus the products of `slab`, shifted, with every tap of `kernel` (kd, kh, kw, c)."""
    kernel = kernel.astype(total.dtype)
    for tap in itertools.product(*map(range, kernel.shape[:3])):
        total = total + _shifted(slab, tap, total.shape[1:4], stride) * kernel[tap]
    return total


def _shifted(slab: Array, tap: Sequence[int], extents: Sequence[int], stride: int) -> Array:
    """The voxels tap + stride * (0 .. extents - 1) of (n, d, h, w, c)."""
    window = [slice(t, t + stride * (e - 1) + 1, stride) for t, e in zip(tap, extents, strict=True)]
    return slab[(slice(None), *window)]


def _correlate_blocks(padded: Array, kernel: Array, bias: Array, stride: int) -> Array:
    n, *extents, c = padded.shape
    d, h, w = _out_extents(extents, kernel.shape[:3], stride)
    planes = divisor_up_to(d, _BLOCK_BYTES // (4 * n * h * w * c))
    sum_type = _sum_type(padded)
    # A small kernel in one loop, a large one in one loop per depth tap.
    depth_taps = kernel.shape[0] if math.prod(kernel.shape[:3]) <= _MOST_PRODUCTS else 1
    starts = jnp.arange(0, kernel.shape[0], depth_taps)

    def block(out: Array, start: Array) -> tuple[Array, None]:
        def add(total: Array, tap: Array) -> tuple[Array, None]:
            count = stride * (planes - 1) + depth_taps
            slab = lax.dynamic_slice_in_dim(padded, stride * start + tap, count, axis=1).astype(sum_type)
            taps = lax.dynamic_slice_in_dim(kernel, tap, depth_taps, axis=0)
            return _add_products(total, slab, taps, stride), None

        total = jnp.broadcast_to(bias.astype(sum_type), (n, planes, h, w, c))
        total, _ = lax.scan(add, varying_like(padded, total), starts)
        return lax.dynamic_update_slice_in_dim(out, total.astype(out.dtype), start, axis=1), None

    out = varying_like(padded, jnp.zeros((n, d, h, w, c), padded.dtype))
    return lax.scan(block, out, jnp.arange(0, d, planes))[0]


def _kernel_gradient_blocks(padded: Array, g: Array, sizes: Sequence[int], stride: int) -> Array:
    """Per block and (depth, height) tap: rows multiplied, summed in groups elementwise, then by a matrix product.

    A plain reduction over space would run one element at a time.
    """
    n, d, h, w, c = g.shape
    kd, kh, kw = sizes
    planes = divisor_up_to(d, _BLOCK_BYTES // (4 * n * h * w * c))
    count = _products(n * planes * h)
    groups = n * planes * h // count
    sum_type = _sum_type(padded)
    ones = jnp.ones((1, groups * w), sum_type)

    def block(total: Array, start: Array) -> tuple[Array, None]:
        rows_g = lax.dynamic_slice_in_dim(g, start, planes, axis=1).astype(sum_type).reshape(groups, count, w, c)

        def row(_: None, tap: Array) -> tuple[None, Array]:
            origin = (0, stride * start + tap // kh, tap % kh, 0, 0)
            shape = (n, stride * (planes - 1) + 1, stride * (h - 1) + 1, padded.shape[3], c)
            slab = lax.dynamic_slice(padded, origin, shape)[:, ::stride, ::stride].astype(sum_type)
            rows = slab.reshape(groups, count, -1, c)
            sums = []
            for t in range(kw):
                shifted = rows[:, :, t : t + stride * (w - 1) + 1 : stride]
                product = shifted[:, 0] * rows_g[:, 0]
                for i in range(1, count):
                    product = product + shifted[:, i] * rows_g[:, i]
                sums.append(ones @ product.reshape(groups * w, c))
            return None, jnp.concatenate(sums)  # (kw, c)

        return total + lax.scan(row, None, jnp.arange(kd * kh))[1], None

    total = varying_like(padded, jnp.zeros((kd * kh, kw, c), sum_type))
    return lax.scan(block, total, jnp.arange(0, d, planes))[0].reshape(kd, kh, kw, c)


def _out_extents(padded: Sequence[int], sizes: Sequence[int], stride: int) -> list[int]:
    return [(extent - size) // stride + 1 for extent, size in zip(padded, sizes, strict=True)]


def _sum_type(x: Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)


def varying_like(x: Array, initial: Array) -> Array:
    """`initial`, the carry of a loop over parts of `x`, with the mesh axes over which x varies under `shard_map`."""
    axes = tuple(jax.typeof(x).manual_axis_type.varying - jax.typeof(initial).manual_axis_type.varying)
    return lax.pcast(initial, axes, to="varying") if axes else initial


def divisor_up_to(n: int, most: int) -> int:
    """The largest divisor of n that is at most `most`, but at least 1."""
    return max(i for i in range(1, n + 1) if n % i == 0 and i <= max(most, 1))


def _products(rows: int) -> int:
    """How many of `rows` to sum in one loop: a divisor within the limits if there is one."""
    divisors = [i for i in range(1, min(rows, _MOST_PRODUCTS) + 1) if rows % i == 0]
    return next((i for i in divisors if i >= _FEWEST_PRODUCTS), divisors[-1])
