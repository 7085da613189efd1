"""Tubes as clouds of points: how much of each voxel they fill against geometry."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mednext_jax.simulate.painted_tubes import Tubes, fill, share

pytestmark = pytest.mark.core

SHAPE = (24, 24, 24)
DIAGONAL = np.ones(3) / np.sqrt(3)


def tube(middle=(11.3, 11.8, 11.6), direction=(0, 0, 1), length=9.0, width=1.5, taper=1.0, bend=0.0, strength=0.4):
    direction = np.array(direction, float)
    side = np.cross(direction, [1.0, 0.2, 0.1])
    values = (middle, direction, side / np.linalg.norm(side), length, width, taper, bend, strength, True)
    return Tubes(*(jnp.asarray(value)[None] for value in values))


def painted(tubes, allowed=None):
    return [np.asarray(a) for a in fill(tubes, jnp.ones(SHAPE, bool) if allowed is None else jnp.asarray(allowed))]


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"width": 0.5},
        {"width": 2.6, "length": 14.0, "taper": 0.3},
        {"direction": DIAGONAL, "bend": 0.12},
        {"direction": DIAGONAL, "width": 3.0, "length": 15.0, "taper": 0.6},
    ],
)
def test_what_is_filled_is_the_volume_of_the_tube(shape):
    one = tube(**shape)
    share, strength = painted(one)
    w, l, t = float(one.width[0]), float(one.length[0]), float(one.taper[0])
    radii = w / 2 * (1 + (t - 1) * (np.arange(2000) + 0.5) / 2000)
    analytic = np.pi * (radii**2).mean() * l
    assert float(one.volume[0]) == pytest.approx(analytic, rel=1e-3)
    # A voxel that is full holds a few points more or fewer than its share; more than full is cut off.
    assert share.sum() == pytest.approx(analytic, rel=0.03 if w < 2 else 0.08)
    np.testing.assert_allclose(strength[share > 0], 0.4, rtol=1e-5)
    s = (np.arange(2000) + 0.5) / 2000
    forward = l * ((s * radii**2).sum() / (radii**2).sum() - 0.5) * np.asarray(one.direction[0])  # to the wide end
    middle = (np.argwhere(share > 0) * share[share > 0, None]).sum(0) / share.sum()
    np.testing.assert_allclose(middle, np.asarray(one.middle[0]) + forward, atol=0.15 if w > 1 else 0.5)


def test_shares_are_those_of_fine_sampling():
    """An independent count: points of a grid of 1/12 voxel that lie in the straight tube."""
    share, _ = painted(tube(direction=DIAGONAL, width=2.0))
    fine = (np.stack(np.meshgrid(*[np.arange(24 * 12)] * 3, indexing="ij"), -1) + 0.5) / 12 - 0.5
    away = fine - np.array([11.3, 11.8, 11.6])
    along = away @ DIAGONAL
    inside = (np.abs(along) < 4.5) & ((away**2).sum(-1) - along**2 < 1.0)
    exact = inside.reshape(24, 12, 24, 12, 24, 12).mean((1, 3, 5))
    assert np.abs(share - exact).max() < 0.2
    assert np.sqrt(np.mean((share - exact)[exact > 0] ** 2)) < 0.08  # some 70 points in a voxel that is full


def test_nothing_is_painted_where_it_may_not_be_nor_beyond_the_box_nor_twice():
    allowed = np.ones(SHAPE, bool)
    allowed[:, :, 12:] = False
    share, strength = painted(tube(), allowed)
    assert share[:, :, :12].any() and not share[:, :, 12:].any() and not strength[:, :, 12:].any()
    out, _ = painted(tube(middle=(11.3, 11.8, 23.0)))
    assert out.sum() == pytest.approx(np.pi / 4 * 1.5**2 * 5, rel=0.05)  # half, and half a voxel, is inside
    two = Tubes(*(jnp.concatenate([a, b]) for a, b in zip(tube(strength=0.2), tube(strength=0.6), strict=True)))
    share, strength = painted(two)
    assert share.max() <= 1
    np.testing.assert_allclose(strength[share > 0], 0.4, rtol=1e-5)  # the mean of both
    absent = tube()._replace(there=jnp.array([False]))
    assert not painted(absent)[0].any()


def test_what_is_filled_is_the_same_bits_in_any_order_of_the_points():
    """As a GPU adds them: never twice in the same order."""
    rng = np.random.default_rng(0)
    crossing = [
        tube(middle=rng.uniform(8, 16, 3), direction=way / np.linalg.norm(way), strength=rng.uniform(0.2, 1))
        for way in rng.normal(size=(40, 3))
    ]

    def shuffled(order):
        return painted(Tubes(*(jnp.concatenate(values) for values in zip(*(crossing[i] for i in order), strict=True))))

    expected = shuffled(range(40))
    assert (expected[0] == 1).sum() > 5  # voxels that several tubes fill
    for one, other in zip(expected, shuffled(rng.permutation(40)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_share_alone_is_that_of_fill():
    allowed = jnp.ones(SHAPE, bool).at[:, :, 12:].set(False)
    np.testing.assert_array_equal(share(tube(), allowed), fill(tube(), allowed)[0])


def test_no_tubes_at_all_are_painted_as_nothing():
    none = Tubes(*(value[:0] for value in tube()))
    share, strength = painted(none)
    assert not share.any() and not strength.any()


def test_the_nearest_tubes_are_kept():
    places = [(-40.0, 5, 5), (5, 5, 5), (30, 5, 5), (12, 12, 27), (5, -3, 5)]
    tubes = [tube(middle=place, strength=0.1 * (i + 1)) for i, place in enumerate(places)]
    tubes = Tubes(*(jnp.concatenate(values) for values in zip(*tubes, strict=True)))
    kept = sorted(round(10 * float(s)) for s in tubes.nearest(SHAPE, 3).strength)
    assert kept == [2, 4, 5]
    assert tubes.nearest(SHAPE, 9) is tubes
    gone = tubes._replace(there=jnp.array([True, False, True, True, True]))
    assert 2 not in [round(10 * float(s)) for s in gone.nearest(SHAPE, 3).strength]
    assert jax.tree.leaves(tubes)[0].shape == (5, 3)
