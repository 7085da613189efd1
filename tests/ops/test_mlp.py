"""GELU, norms and the chunked second half of a block."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from mednext_jax.ops import mlp, norm
from mednext_jax.ops.gelu import gelu

pytestmark = pytest.mark.core


def test_gelu_and_its_slope_are_exact():
    x = np.linspace(-8, 8, 4001)
    cdf = 0.5 * (1 + erf(x / np.sqrt(2)))
    slope = cdf + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi)
    x32 = jnp.asarray(x, jnp.float32)
    # A few float32 roundings; the tanh approximation would be off by 5e-4.
    np.testing.assert_allclose(gelu(x32), x * cdf, atol=2e-6)
    np.testing.assert_allclose(jax.vmap(jax.grad(gelu))(x32), slope, atol=2e-6)


def test_gelu_under_shard_map():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.P("data")
    x = jnp.linspace(-3, 3, 8)
    slope = jax.shard_map(lambda x: jax.grad(lambda x: gelu(x).sum())(x), mesh=mesh, in_specs=spec, out_specs=spec)
    np.testing.assert_allclose(jax.jit(slope)(x), jax.vmap(jax.grad(gelu))(x), rtol=1e-6)


def test_moments_do_not_cancel():
    x = 3000 + np.random.default_rng(0).standard_normal((2, 6, 5, 4, 3)).astype(np.float32)
    keep = norm.inside_front_padding(x)
    for chosen, voxels in ((None, x), (keep, x[:, 1:, 1:, 1:])):
        mean, variance = norm.moments(x, chosen)
        exact = voxels.astype(np.float64)
        np.testing.assert_allclose(np.ravel(mean), exact.mean((1, 2, 3)).ravel(), rtol=1e-6)
        # E[x^2] - E[x]^2 in float32 would be off by about 1, of 1; the mean's own rounding (1e-4) enters squared.
        np.testing.assert_allclose(np.ravel(variance), exact.var((1, 2, 3)).ravel(), rtol=1e-4)


def test_response_of_silent_channels_has_finite_gradients():
    h = jnp.zeros((1, 2, 2, 2, 3)).at[..., 0].set(1.0)
    ones = jnp.ones(3)
    slopes = jax.grad(lambda h: norm.global_response_norm(h, ones, ones).sum())(h)
    assert bool(jnp.isfinite(slopes).all())


@pytest.mark.parametrize(
    ("kind", "front_padding", "residual"), [("group", False, True), ("group", True, True), ("layer", False, False)]
)
def test_chunks_change_nothing(kind, front_padding, residual, monkeypatch):
    monkeypatch.setattr(mlp, "_CHUNK_BYTES", 4 * 8 * 16)  # 16 of a sample's 96 voxels
    random = np.random.default_rng(0)
    u, beside, g = (random.standard_normal((2, 4, 4, 6, c)).astype(np.float32) for c in (4, 5, 5))
    shapes = ((4,), (4,), (4, 8), (8,), (8, 5), (5,))
    weights = mlp.MLPWeights(*(random.standard_normal(shape).astype(np.float32) for shape in shapes), norm=kind)

    def value(u, weights, beside, in_chunks):
        y = mlp.norm_mlp(
            u,
            weights,
            residual=beside if residual else None,
            front_padding=front_padding,
            in_chunks=in_chunks,
        )
        return jnp.sum(y * g), y

    slopes = jax.jit(jax.value_and_grad(value, (0, 1, 2), has_aux=True), static_argnums=3)
    (_, y), gradients = slopes(u, weights, beside, True)
    (_, y_whole), gradients_whole = slopes(u, weights, beside, False)
    if front_padding:
        assert not np.any(y[:, 0]) and not np.any(y[:, :, 0]) and not np.any(y[:, :, :, 0])
        assert np.all(np.any(y[:, 1:, 1:, 1:], axis=-1))
    # The same float32 arithmetic; sums over voxels in another order.
    for ours, whole in zip(jax.tree.leaves((y, gradients)), jax.tree.leaves((y_whole, gradients_whole)), strict=True):
        np.testing.assert_allclose(ours, whole, rtol=1e-5, atol=1e-5 * np.abs(whole).max())
