"""The depthwise sums as products with banded matrices along h and w: the form for TPUs, whose speed is in products.

A row of W voxels times a band (W, W') that holds the taps of one channel on its diagonals is that row correlated. Where
rows are short, several side by side make a line, whose band has a block for each pair of rows. So a depthwise
convolution in three dimensions is one in (d, lines of h) whose features are the voxels of a line and whose groups are
the channels. Most products are with zeros; a matrix unit makes all of them in a tenth of the cycles that a vector unit
needs for the others.

A matrix unit takes its rows from the batch, 16 at a time: the depth is cut into parts that join the batch, each with
the planes around it. How many rows make a line is the choice of least work (`_rows_of_a_line`).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from mednext_jax.ops.pointwise import precision_for

# Rows of a matrix unit's operand that lie in one register of bfloat16, and the width of the unit.
_ROWS, _LANES = 16, 128
# How many elements of a band take as long to make as one row of a product takes a matrix unit.
_BAND_ELEMENTS = 16


@dataclasses.dataclass(frozen=True)
class _Axis:
    """Along one axis, input i and output o meet in tap t = up i - down o + shift, for 0 <= t < taps.

    A correlation has up 1 and its stride as down; its transpose up -stride and down -1.
    """

    up: int
    down: int
    shift: int
    taps: int
    inputs: int
    outputs: int


def correlate_rows(
    x: Array, kernel: Array, bias: Array, stride: int, before: Sequence[int], extents: Sequence[int]
) -> Array:
    """y[n, o, c] = bias[c] + sum_t x[n, stride o + t - before, c] kernel[t, c], x being 0 outside the volume.

    `x` (n, d, h, w, c), `kernel` (kd, kh, kw, c), `bias` (c,), `before` and `extents` (3,) -> (n, *extents, c) in x's
    type; sums are float32.
    """
    sizes = zip(before, kernel.shape, x.shape[1:4], extents, strict=False)
    _, h, w = (_Axis(1, stride, lo, *rest) for lo, *rest in sizes)
    return _convolve_lines(x, kernel, bias, h, w, stride, 1, before[0], extents[0])


def scatter_rows(
    x: Array, kernel: Array, bias: Array, stride: int, origins: Sequence[int], extents: Sequence[int]
) -> Array:
    """y[n, stride i + t - origin, c] += x[n, i, c] kernel[t, c] on a grid of `extents`, from the bias on; as above."""
    sizes = zip(origins, kernel.shape, x.shape[1:4], extents, strict=False)
    _, h, w = (_Axis(-stride, -1, origin, *rest) for origin, *rest in sizes)
    before = kernel.shape[0] - 1 - origins[0]
    return _convolve_lines(x, kernel[::-1], bias, h, w, 1, stride, before, extents[0])


def kernel_gradient_rows(x: Array, g: Array, sizes: Sequence[int], stride: int, before: Sequence[int]) -> Array:
    """The gradient of sum(g correlate_rows(x, kernel, stride, before)) by a kernel of `sizes` (3,), float32."""
    spans = [stride * (m - 1) + 1 for m in g.shape[1:3]]
    bands = lax.conv_general_dilated(
        _lines(x, 1),
        _lines(g, 1),
        (1, 1),
        [_around(m, span, b, size, 1) for m, span, b, size in zip(x.shape[1:3], spans, before, sizes, strict=False)],
        rhs_dilation=(stride, stride),
        dimension_numbers=("CHWN", "IHWO", "NHWC"),  # sums over the samples, too
        batch_group_count=x.shape[-1],
        precision=precision_for(x),
        preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
    )
    # Diagonals summed within the convolution take a TPU three times as long as the convolution.
    bands = lax.optimization_barrier(bands.reshape(*bands.shape[:3], x.shape[-1], -1))  # (w, kd, kh, c, w')
    tap = _taps(_Axis(1, stride, before[2], sizes[2], x.shape[3], g.shape[3]))[:, None, None, None, :]
    return jnp.stack([jnp.where(tap == t, bands, 0).sum((0, 4)) for t in range(sizes[2])], axis=2)


def _convolve_lines(
    x: Array,
    kernel: Array,
    bias: Array,
    h: _Axis,
    w: _Axis,
    stride: int,
    dilation: int,
    before: int,
    depth: int,
) -> Array:
    """The sum over all taps; along the depth a correlation of `x`, dilated, from `before` planes ahead of it on."""
    n, *_, c = x.shape
    rows_in, rows_out = _rows_of_a_line(n * depth, h, w)
    band, around = _band(kernel.astype(x.dtype), h, w, rows_in, rows_out)
    lines, edges = _parts(_lines(x, rows_in), stride, dilation, before, kernel.shape[0], depth)
    y = lax.conv_general_dilated(
        lines,
        band,
        (stride, 1),
        [edges, around],
        lhs_dilation=(dilation, 1),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=c,
        precision=precision_for(x),
        preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
    )
    y = (y + jnp.repeat(bias, rows_out * w.outputs)).astype(x.dtype)  # rounded before the layout may change
    y = jnp.swapaxes(y.reshape(n, -1, y.shape[2], c, rows_out * w.outputs)[:, :depth], 3, 4)
    return y.reshape(n, depth, -1, w.outputs, c)[:, :, : h.outputs]


def _band(kernel: Array, h: _Axis, w: _Axis, rows_in: int, rows_out: int) -> tuple[Array, tuple[int, int]]:
    """The band of lines of `rows_in` and `rows_out` rows, (kd, lines, in, c out), and the lines around the volume."""
    reach = _reach(h, rows_in, rows_out)
    i, o = np.arange(len(reach) * rows_in), np.arange(rows_out)
    tap_h = (h.up * (i + reach[0] * rows_in)[:, None] - h.down * o + h.shift).reshape(-1, rows_in, rows_out)
    tap_w = w.up * np.arange(w.inputs)[:, None] - w.down * np.arange(w.outputs) + w.shift
    tap_h, tap_w = tap_h[:, :, None, :, None], tap_w[None, None, :, None, :]
    inside = (tap_h >= 0) & (tap_h < h.taps) & (tap_w >= 0) & (tap_w < w.taps)
    tap = np.where(inside, tap_h * w.taps + tap_w, -1).reshape(len(reach), rows_in * w.inputs, 1, rows_out * w.outputs)
    flat = kernel.reshape(kernel.shape[0], -1, 1, kernel.shape[-1], 1)

    def block(tap: np.ndarray) -> Array:
        """One line's band (kd, in, c, out); only few of the taps are in it."""
        where = jnp.asarray(tap)
        diagonals = (jnp.where(where == t, flat[:, t], 0) for t in np.unique(tap[tap >= 0]).tolist())
        return functools.reduce(jnp.add, diagonals)

    band = jnp.stack([block(line) for line in tap.astype(np.int16)], 1)
    groups_in, groups_out = -(-h.inputs // rows_in), -(-h.outputs // rows_out)
    return band.reshape(*band.shape[:3], -1), (-reach[0], groups_out + reach[-1] - groups_in)


def _reach(h: _Axis, rows_in: int, rows_out: int) -> range:
    """The lines of the input, counted from that at its own place, whose rows meet those of a line of the output."""
    reach = [
        line
        for line in range(-h.taps - 1, h.taps + 2)
        for i, o in itertools.product(range(rows_in), range(rows_out))
        if 0 <= h.up * (line * rows_in + i) - h.down * o + h.shift < h.taps
    ]
    last_in, last_out = (h.inputs - 1) // rows_in, (h.outputs - 1) // rows_out
    return range(max(min(reach), -last_out), min(max(reach), last_in) + 1)


def _rows_of_a_line(planes: int, h: _Axis, w: _Axis) -> tuple[int, int]:
    """Rows of h in a line of the input and of the output for the least work: `planes` of products, and the band."""

    def work(rows: tuple[int, int]) -> int:
        width_in, width_out = (
            -(-many * axis // _LANES) for many, axis in zip(rows, (w.inputs, w.outputs), strict=True)
        )
        reach, lines = len(_reach(h, *rows)), -(-h.outputs // rows[1])
        elements = reach * rows[0] * w.inputs * width_out * _LANES
        return planes * lines * reach * width_in * width_out + elements // _BAND_ELEMENTS

    coarse, fine = 1, max(h.down, -h.up)
    one = (fine, coarse) if h.down > 0 else (coarse, fine)
    most = max(_LANES // max(w.inputs * one[0], w.outputs * one[1]), 1)  # a line fits the unit, or is one row
    choices = [(one[0] * many, one[1] * many) for many in (1, 2, 4, 8, 16) if many <= min(most, h.outputs)]
    return min(choices, key=work)


def _parts(
    lines: Array, stride: int, dilation: int, before: int, taps: int, depth: int
) -> tuple[Array, tuple[int, int]]:
    """The depth of (n, d, ...) cut into parts that join the batch, each with what a correlation of it reads.

    Also the zeros that remain to be put around a part.
    """
    n, d = lines.shape[:2]
    count = max(min(_ROWS // n, depth // 2), 1)
    planes = -(-depth // count)
    planes += planes % dilation  # parts begin alike
    count = -(-depth // planes)
    span = stride * (planes - 1) + taps
    first = -(before // dilation)
    lo = dilation * first + before
    length = (span - 1 - lo) // dilation + 1
    hi = span - lo - (dilation * (length - 1) + 1)
    if count == 1:
        return lines, (before, span - before - (dilation * (d - 1) + 1))
    step = stride * planes // dilation
    after = first + (count - 1) * step + length - d
    padding = [(0, 0, 0), (-first, after, 0), *[(0, 0, 0)] * (lines.ndim - 2)]
    padded = lax.pad(lines, jnp.zeros((), lines.dtype), padding)
    parts = [lax.slice_in_dim(padded, i * step, i * step + length, axis=1) for i in range(count)]
    return jnp.stack(parts, 1).reshape(n * count, length, *lines.shape[2:]), (lo, hi)


def _lines(x: Array, rows: int) -> Array:
    """(n, d, h, w, c) -> (n, d, lines, c rows w), zeros where h ends within a line."""
    n, d, h, w, c = x.shape
    count = -(-h // rows)
    x = jnp.pad(x, ((0, 0), (0, 0), (0, count * rows - h), (0, 0), (0, 0))) if count * rows > h else x
    return jnp.swapaxes(x.reshape(n, d, count, rows * w, c), 3, 4).reshape(n, d, count, -1)


def _taps(axis: _Axis) -> Array:
    """The tap in which each pair of input and output voxels of an axis meets, (inputs, outputs)."""
    shape = (axis.inputs, axis.outputs)
    i, o = (lax.broadcasted_iota(jnp.int32, shape, a) for a in (0, 1))
    return axis.up * i - axis.down * o + axis.shift


def _around(span: int, size: int, before: int, extent: int, stride: int) -> tuple[int, int]:
    """Zeros before and after `span` voxels so that a kernel of `size` yields `extent`; below 0, voxels left out."""
    return before, stride * (extent - 1) + size - span - before
