"""A part of a volume with its halo gives the same part of each depthwise convolution, and the same gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mednext_jax.ops import depthwise
from mednext_jax.ops.split import WHOLE, halo_of

pytestmark = pytest.mark.core

HALO = (True, False, True)  # along d and w; zeros along h
OPS = {
    "conv": (depthwise.depthwise_conv, depthwise.conv_halo, 1.0),
    "down": (depthwise.depthwise_down, depthwise.down_halo, 0.5),
    "up": (depthwise.depthwise_up, depthwise.up_halo, 2.0),
}


@pytest.mark.parametrize(
    ("name", "k", "form"),
    [
        *(
            ("conv", 5, "blocks"),
            ("down", 3, "blocks"),
            ("down", 5, "blocks"),
            ("up", 3, "blocks"),
            ("up", 5, "blocks"),
        ),
        *(("up", 7, "blocks"), ("conv", 5, "banded"), ("down", 5, "banded"), ("up", 3, "banded"), ("up", 5, "banded")),
    ],
)
def test_part_with_halo_is_part_of_the_whole(name, k, form):
    op, reach, scale = OPS[name]
    before, after = reach(k)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(1, 16, 6, 16, 2)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(k, k, k, 2)), jnp.float32)
    bias = jnp.asarray([0.3, -0.2])
    part = (slice(None), slice(4, 12), slice(None), slice(8, 14))
    out = tuple(slice(None) if s.start is None else slice(int(s.start * scale), int(s.stop * scale)) for s in part)
    weight = jnp.zeros((1, *(int(n * scale) for n in x.shape[1:4]), 2)).at[out].set(1.0)
    weight = weight * jnp.asarray(rng.normal(size=weight.shape), jnp.float32)

    def of_whole(x, kernel, bias):
        y = op(x, kernel, bias, halo_of(WHOLE), form)
        return jnp.sum(y * weight), y[out]

    def of_part(x, kernel, bias):
        slab = jnp.pad(x, ((0, 0), (before, after), (0, 0), (before, after), (0, 0)))
        slab = slab[:, 4 : 12 + before + after, :, 8 : 14 + before + after]
        y = op(slab, kernel, bias, HALO, form)
        return jnp.sum(y * weight[out]), y

    (_, whole), expected = jax.jit(jax.value_and_grad(of_whole, (0, 1, 2), has_aux=True))(x, kernel, bias)
    (_, got), gradients = jax.jit(jax.value_and_grad(of_part, (0, 1, 2), has_aux=True))(x, kernel, bias)
    # The same float32 sums of up to 343 products, perhaps in another order.
    np.testing.assert_allclose(got, whole, rtol=1e-5, atol=1e-4)
    for g, e in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-5, atol=1e-4 * float(jnp.abs(e).max()))
