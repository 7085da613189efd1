"""Every form of the depthwise convolutions against their definition, written out in float64."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mednext_jax.ops import banded, correlate, depthwise
from mednext_jax.ops.split import WHOLE, halo_of

pytestmark = pytest.mark.core

OPS = {"conv": depthwise.depthwise_conv, "down": depthwise.depthwise_down, "up": depthwise.depthwise_up}


def pairs(name, tap, k, n_in):
    """Along one axis: which input voxels meet which output voxels in a tap."""
    p = k // 2
    n_out = {"conv": n_in, "down": n_in // 2, "up": 2 * n_in}[name]
    if name == "up":
        source = np.arange(n_in)
        target = 2 * source + 1 + tap - p
    else:
        target = np.arange(n_out)
        source = (2 if name == "down" else 1) * target + tap - p
    inside = (source >= 0) & (source < n_in) & (target >= 0) & (target < n_out)
    return source[inside], target[inside]


def by_definition(name, x, kernel, bias, g):
    """y, and the gradients of sum(y g) by x, kernel and bias."""
    k = len(kernel)
    x, kernel, g = (np.asarray(a, np.float64) for a in (x, kernel, g))
    y = np.zeros(g.shape) + np.asarray(bias, np.float64)
    dx, dw = np.zeros(x.shape), np.zeros(kernel.shape)
    for taps in itertools.product(range(k), repeat=3):
        sources, targets = zip(*(pairs(name, t, k, n) for t, n in zip(taps, x.shape[1:4], strict=True)), strict=True)
        for n in range(len(x)):
            here, there = (n, *np.ix_(*sources)), (n, *np.ix_(*targets))
            y[there] += x[here] * kernel[taps]
            dx[here] += g[there] * kernel[taps]
            dw[taps] += (x[here] * g[there]).sum((0, 1, 2))
    return y, (dx, dw, g.sum((0, 1, 2, 3)))


def operands(name, k, shape=(2, 4, 8, 6, 3)):
    random = np.random.default_rng(k)
    n, *extents, c = shape
    scale = {"conv": 1, "down": 0.5, "up": 2}[name]
    out = (n, *(int(scale * extent) for extent in extents), c)
    shapes = (shape, (k, k, k, c), (c,), out)
    return [random.standard_normal(s).astype(np.float32) for s in shapes]


def run(name, x, kernel, bias, g, form):
    def value(x, kernel, bias):
        y = OPS[name](x, kernel, bias, halo_of(WHOLE), form)
        return jnp.sum(y.astype(jnp.float32) * g), y

    (_, y), gradients = jax.jit(jax.value_and_grad(value, (0, 1, 2), has_aux=True))(x, kernel, bias)
    return y, gradients


def check(got, expected):
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        # float32 sums of at most 343 * 384 products of order 1.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * np.abs(theirs).max() + 1e-5)


@pytest.mark.parametrize("form", ["blocks", "banded", "grouped"])
@pytest.mark.parametrize(("name", "k"), [(name, k) for name in OPS for k in (3, 5)])
def test_form_is_the_definition(name, k, form):
    values = operands(name, k)
    check(run(name, *values, form), by_definition(name, *values))


# Depth cut into parts (batch 1 to 4), rows merged to lines: short and odd rows, a last line that is not full.
@pytest.mark.parametrize(
    ("name", "k", "batch"),
    [
        *(("conv", 5, 1), ("conv", 3, 2), ("conv", 7, 3), ("conv", 5, 4)),
        *(("down", 5, 1), ("down", 3, 2), ("down", 5, 4), ("up", 3, 1), ("up", 5, 2), ("up", 5, 3)),
    ],
)
def test_banded_parts_and_lines(name, k, batch):
    h, w = {1: (9, 7), 2: (16, 4), 3: (10, 3), 4: (6, 70)}[batch]
    if name == "down":
        h, w = h + h % 2, w + w % 2
    values = operands(name, k, (batch, {1: 10, 2: 18, 3: 12, 4: 8}[batch], h, w, 2))
    check(run(name, *values, "banded"), by_definition(name, *values))


def test_banded_of_few_voxels():
    for name, shape in (
        ("conv", (1, 1, 1, 1, 2)),
        ("conv", (2, 3, 7, 5, 2)),
        ("down", (1, 2, 2, 2, 1)),
        ("up", (1,) * 5),
    ):
        values = operands(name, 5, shape)
        check(run(name, *values, "banded"), by_definition(name, *values))


@pytest.mark.parametrize(("extent", "rows"), [(128, 1), (64, 2), (8, 8)])
def test_short_rows_make_a_line(extent, rows):
    axis = banded._Axis(1, 1, 2, 5, extent, extent)
    assert banded._rows_of_a_line(2 * extent, axis, axis) == (rows, rows)


@pytest.mark.parametrize("name", OPS)
def test_blocks_of_few_planes_and_large_kernels(name, monkeypatch):
    monkeypatch.setattr(correlate, "_BLOCK_BYTES", 2 * 4 * 2 * 8 * 6)
    values = operands(name, 7, (2, 4, 8, 6, 2))
    check(run(name, *values, "blocks"), by_definition(name, *values))


def test_odd_extents_and_one_voxel():
    for shape in ((1, 3, 7, 5, 2), (1, 1, 1, 1, 2)):
        values = operands("conv", 3, shape)
        check(run("conv", *values, "blocks"), by_definition("conv", *values))


@pytest.mark.parametrize(("form", "absolute"), [("blocks", 1e-2), ("banded", 1e-2), ("grouped", 1e-2)])
def test_bfloat16_sums_in_float32(form, absolute):
    x, kernel, bias, _ = operands("conv", 5)
    x, kernel = (jnp.asarray(a, jnp.bfloat16) for a in (x, kernel))
    y = jax.jit(depthwise.depthwise_conv, static_argnums=(3, 4))(x, kernel, bias, halo_of(WHOLE), form)
    exact, _ = by_definition("conv", x, kernel, bias, np.zeros(x.shape))
    assert y.dtype == jnp.bfloat16
    # Only the result is rounded, by 2^-9 relative; sums in bfloat16 of 125 products would be off tenfold.
    np.testing.assert_allclose(np.asarray(y, np.float64), exact, rtol=2**-8, atol=absolute)
