"""Draws in order from one key, and smooth fields."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mednext_jax.simulate.random_fields import Draws, along_axes, nodes_along, splined, splined_at

pytestmark = pytest.mark.core

MANY = 20_000


def many(draw, count=MANY):
    keys = jax.random.split(jax.random.key(5), count)
    return np.asarray(jax.jit(jax.vmap(lambda key: draw(Draws(key))))(keys))


def test_counts_have_both_ends_and_the_law_that_is_written():
    counts = many(lambda d: d.count((2, 6)))
    assert counts.dtype == np.int32
    shares = np.bincount(counts, minlength=7) / MANY
    law = [0, 0, *(np.log((n + 2) / (n + 1)) / np.log(8 / 3) for n in range(2, 7))]
    np.testing.assert_allclose(shares, law, atol=0.015)  # standard deviation of a share: 0.0034
    assert set(many(lambda d: d.count((0, 0)), 100)) == {0}
    assert set(many(lambda d: d.count((7, 7)), 100)) == {7}


def test_weights_uniform_and_log_uniform_draws():
    shares = np.bincount(many(lambda d: d.weighted((3.0, 0.0, 1.0)))) / MANY
    np.testing.assert_allclose(shares, (0.75, 0, 0.25), atol=0.015)
    even = many(lambda d: jnp.log(d.log_uniform((0.01, 1.0))) / np.log(0.01))
    assert even.min() >= 0 and even.max() <= 1 + 1e-6
    np.testing.assert_allclose([even.mean(), even.std()], [0.5, np.sqrt(1 / 12)], atol=0.01)
    np.testing.assert_allclose(many(lambda d: d.chance(0.3)).mean(), 0.3, atol=0.015)


def test_directions_are_unit_and_even():
    drawn = many(lambda d: d.direction((1,)))[:, 0]
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(drawn.T @ drawn / MANY, np.eye(3) / 3, atol=0.015)


def test_each_draw_is_a_stream_of_its_own():
    one, other = Draws(jax.random.key(0)), Draws(jax.random.key(0))
    other.normal((50,))  # of another shape: the next draw stays the same
    first = one.normal()
    assert float(one.normal()) == float(other.normal()) != float(first)


def test_a_smooth_field_has_variance_1_and_is_smooth_over_its_spacing():
    fields = many(lambda d: d.smooth((9, 12, 7), 4.0), 4000)
    assert fields.shape == (4000, 9, 12, 7)
    assert np.abs(fields.mean(0)).max() < 0.1
    # On its nodes a spline has more variance than between them: their mean is 1, by axis 0.94 to 1.12 cubed.
    assert fields.var(0).mean() == pytest.approx(1, abs=0.1)
    assert fields.var(0).min() > 0.7 and fields.var(0).max() < 1.5

    def alike(away):
        pairs = fields[:, : 9 - away, :, :].ravel(), fields[:, away:, :, :].ravel()
        return np.corrcoef(*pairs)[0, 1]

    assert alike(1) > 0.9 and abs(alike(8)) < 0.1
    three = jax.eval_shape(lambda key: Draws(key).smooth((5, 6, 7), 2.0, 3), jax.random.key(0))
    assert three.shape == (3, 5, 6, 7)


def test_matrices_are_applied_along_the_axes():
    rng = np.random.default_rng(0)
    matrices, field = [rng.random((m, n)) for m, n in ((2, 4), (6, 3), (7, 5))], rng.random((4, 3, 5, 2))
    expected = np.einsum("ad,bh,cw,dhwk->kabc", *matrices, field)
    np.testing.assert_allclose(along_axes(matrices, jnp.asarray(field)), expected, rtol=1e-5)
    np.testing.assert_allclose(along_axes(matrices, jnp.asarray(field[..., 1])), expected[1], rtol=1e-5)
    assert nodes_along(9, 4.0) == 6


def test_a_spline_at_single_voxels_is_the_whole_one_there():
    shape, voxels = (9, 12, 7), np.array([[0, 0, 0], [8, 11, 6], [3, 5, 2]])
    nodes = Draws(jax.random.key(1)).nodes(shape, 4.0, 3)
    whole = np.asarray(splined(nodes, shape, 4.0))
    np.testing.assert_allclose(splined_at(nodes, shape, 4.0, voxels), whole[:, *voxels.T].T, atol=1e-5)


def test_two_normals_are_normal_and_of_their_own():
    one, other = (np.asarray(a) for a in Draws(jax.random.key(3)).two_normals((MANY,)))
    for drawn in (one, other):
        np.testing.assert_allclose([drawn.mean(), drawn.std()], [0, 1], atol=0.03)
        np.testing.assert_allclose(np.quantile(drawn, (0.0228, 0.1587, 0.8413, 0.9772)), (-2, -1, 1, 2), atol=0.08)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.03


def test_single_numbers_stay_apart_beyond_those_that_are_made_at_once():
    draws = Draws(jax.random.key(2))
    assert len({float(draws.uniform((0, 1))) for _ in range(150)}) == 150
