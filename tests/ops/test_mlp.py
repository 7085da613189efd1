"""GELU, norms and the chunked second half of a block."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, ndtr

from mednext_jax.ops import mlp, norm
from mednext_jax.ops.gelu import gelu, gelu_by_tanh

pytestmark = pytest.mark.core


def test_gelu_and_its_slope_are_exact():
    x = np.linspace(-8, 8, 4001)
    cdf = 0.5 * (1 + erf(x / np.sqrt(2)))
    slope = cdf + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi)
    x32 = jnp.asarray(x, jnp.float32)
    # A few float32 roundings; the tanh approximation would be off by 5e-4.
    np.testing.assert_allclose(gelu(x32), x * cdf, atol=2e-6)
    np.testing.assert_allclose(jax.vmap(jax.grad(gelu))(x32), slope, atol=2e-6)


def test_gelu_by_tanh_over_all_floats():
    # Every bfloat16 and, by their leading 16 bits, floats all over the range; infinities and NaN aside.
    bits = np.arange(2**16, dtype=np.uint32)
    for low in (0, 0x5A5A):
        x = ((bits << 16) | low).view(np.float32)
        x = x[np.isfinite(x)]
        wide = x.astype(np.float64)
        exact, cdf = wide * ndtr(wide), ndtr(wide)
        found = np.asarray(gelu_by_tanh(jnp.asarray(x)), np.float64)
        # From 8 on either way x itself or 0, to float32.
        assert np.abs(np.where(np.abs(wide) < 8, found - exact, 0)).max() < 3e-5
        large = np.abs(wide) >= 8
        np.testing.assert_allclose(found[large], exact[large], rtol=1e-6, atol=1e-6)
        with np.errstate(over="ignore", invalid="ignore"):
            slope = cdf + np.where(large, 0, wide * np.exp(-wide * wide / 2)) / np.sqrt(2 * np.pi)
        found = np.asarray(jax.vmap(jax.grad(gelu_by_tanh))(jnp.asarray(x)), np.float64)
        assert np.abs(found - slope).max() < 6e-5


def test_gelu_by_tanh_rounds_bfloat16_once():
    x = jnp.linspace(-4, 4, 1001, dtype=jnp.bfloat16)
    wide = x.astype(jnp.float32)
    assert (gelu_by_tanh(x) == gelu_by_tanh(wide).astype(jnp.bfloat16)).all()
    slopes = jax.vmap(jax.grad(lambda x: gelu_by_tanh(x).astype(jnp.float32)))
    np.testing.assert_allclose(slopes(x).astype(jnp.float32), slopes(wide), rtol=2**-8)


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


@pytest.mark.parametrize("front_padding", [False, True])
def test_moments_in_one_pass(front_padding):
    x = (7 + np.random.default_rng(0).standard_normal((2, 6, 5, 4, 3))).astype(jnp.bfloat16)
    x[..., 2] = 1  # a constant channel: no variance, not a negative one
    keep = norm.inside_front_padding(x) if front_padding else None
    exact = x[:, 1:, 1:, 1:].astype(np.float64) if front_padding else x.astype(np.float64)
    mean, variance = norm.moments(jnp.asarray(x), keep, one_pass=True)
    np.testing.assert_allclose(np.ravel(mean), exact.mean((1, 2, 3)).ravel(), rtol=1e-6)
    # Of 49 + 1 - 49 each float32 rounding is 3e-6.
    np.testing.assert_allclose(np.ravel(variance), exact.var((1, 2, 3)).ravel(), rtol=3e-5, atol=3e-5)
    assert (variance >= 0).all()


@pytest.mark.parametrize(("dtype", "same"), [(jnp.float32, True), (jnp.bfloat16, False)])
def test_a_tpu_saves_steps_in_bfloat16_alone(dtype, same):
    random = np.random.default_rng(1)
    u, g = (jnp.asarray(random.standard_normal((2, 4, 4, 6, c)), dtype) for c in (4, 5))
    shapes = ((4,), (4,), (4, 8), (8,), (8, 5), (5,))
    weights = mlp.MLPWeights(*(jnp.asarray(random.standard_normal(s), jnp.float32) for s in shapes))

    def run(tpu):
        def value(u, weights):
            y = mlp.norm_mlp(u, weights, residual=None, front_padding=False, in_chunks=False, tpu=tpu)
            return jnp.sum(y.astype(jnp.float32) * g), y

        (_, y), gradients = jax.jit(jax.value_and_grad(value, (0, 1), has_aux=True))(u, weights)
        return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves((y, gradients))]

    for ours, exact in zip(run(True), run(False), strict=True):
        if same:
            np.testing.assert_array_equal(ours, exact)
        else:  # a bfloat16 step or two of what is large
            np.testing.assert_allclose(ours, exact, rtol=0, atol=2**-6 * np.abs(exact).max())
    assert any((a != b).any() for a, b in zip(run(True), run(False), strict=True)) != same


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
