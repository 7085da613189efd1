"""Tubes painted on the device: shapes drawn, and how much of each voxel they fill.

A tube is a cloud of points that is even in its volume; each point brings its share of the volume to the voxel that it
lies in. That is partial volume by supersampling, without a loop over tubes or a box around each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mednext_jax.simulate.flat_index import flat_index
from mednext_jax.simulate.random_fields import Draws, unit

_ALONG, _ACROSS = 48, 14  # points along a tube and in each of its discs
_UNITS = 2.0**27  # in a voxel's volume, for whole sums: of uint32, whose end is 32 tubes that each fill the same voxel
WHOLE_BRAIN_MM3 = 1.2e6
_GOLDEN = np.pi * (3 - np.sqrt(5))


class Tubes(NamedTuple):
    """Curved tapering tubes, (m,) and (m, 3), lengths in voxels, positions (d, h, w)."""

    middle: jax.Array
    direction: jax.Array  # unit, from the wide end to the thin one
    side: jax.Array  # unit, across: where it bends to
    length: jax.Array
    width: jax.Array  # diameter at the wide end
    taper: jax.Array  # diameter at the thin end / at the wide end
    bend: jax.Array  # sagitta / length
    strength: jax.Array
    there: jax.Array  # bool

    @property
    def volume(self) -> jax.Array:
        """Voxels, of the straight tube."""
        return jnp.pi / 12 * self.length * self.width**2 * (1 + self.taper + self.taper**2)

    def split(self, counts: Sequence[int]) -> list[Tubes]:
        """The first so many, the next, and so on."""
        ends = np.cumsum(counts)
        return [Tubes(*(value[end - n : end] for value in self)) for n, end in zip(counts, ends, strict=True)]

    def nearest(self, shape: tuple[int, ...], count: int) -> Tubes:
        """The `count` tubes that reach deepest into a box of this shape."""
        if count >= len(self.length):
            return self
        middle = (jnp.array(shape) - 1) / 2
        out = jnp.max(jnp.abs(self.middle - middle) - middle, axis=1) - self.length / 2
        _, kept = jax.lax.top_k(jnp.where(self.there, -out, -jnp.inf), count)
        return Tubes(*(value[kept] for value in self))


def draw_tubes(
    draws: Draws,
    middle: jax.Array,
    direction: jax.Array,
    there: jax.Array,
    *,
    width: tuple[jax.Array, jax.Array],
    length: tuple[jax.Array, jax.Array],
    width_limits: tuple[float, ...],
    length_limits: tuple[float, ...],
    taper: tuple[float, ...],
    bend: float,
    strength: tuple[float, ...],
) -> Tubes:
    """Tubes at these places; `width` and `length`: median, of each or all, and the deviation of the logarithm, cut."""
    m = len(middle)
    across = unit(jnp.cross(direction, draws.normal((m, 3))))

    def log_normal(median: jax.Array, deviation: jax.Array, limits: tuple[float, ...]) -> jax.Array:
        return jnp.clip(median * jnp.exp(deviation * draws.normal((m,))), *limits)

    wide = log_normal(*width, width_limits)
    # At least 1.7 times as long as wide: rounder ones are lacunes.
    long = jnp.maximum(log_normal(*length, length_limits), 1.7 * wide)
    return Tubes(
        middle=middle,
        direction=direction * jnp.where(draws.chance(0.5, (m, 1)), 1, -1),
        side=across,
        length=long,
        width=wide,
        taper=draws.uniform(taper, (m,)),
        bend=bend * draws.normal((m,)),
        strength=draws.uniform(strength, (m,)),
        there=there,
    )


def points_of(tubes: Tubes) -> tuple[list[jax.Array], jax.Array]:
    """Points evenly in the volume of each tube, (m, n) by axis, and the voxels (m, n) that each stands for."""
    at = (np.arange(_ALONG) + 0.5) / _ALONG
    disc = np.sqrt((np.arange(_ACROSS) + 0.5) / _ACROSS)
    # Each disc is turned against the one before, so that no column of points follows the tube.
    angle = _GOLDEN * (np.arange(_ACROSS)[None] + 0.37 * np.arange(_ALONG)[:, None] * _ACROSS)
    s, third = jnp.asarray(at), jnp.cross(tubes.direction, tubes.side)
    radius = tubes.width[:, None] / 2 * (1 + (tubes.taper[:, None] - 1) * s)  # (m, along)
    sagitta = tubes.bend[:, None] * tubes.length[:, None] * (4 * s * (1 - s) - 2 / 3)
    x = jnp.asarray(disc * np.cos(angle))[None] * radius[..., None]  # (m, along, across)
    y = jnp.asarray(disc * np.sin(angle))[None] * radius[..., None]
    points = len(tubes.length), _ALONG * _ACROSS
    cloud = []
    for axis in range(3):
        forward, side, other = (v[:, axis, None] for v in (tubes.direction, tubes.side, third))
        line = tubes.middle[:, axis, None] + (s - 0.5) * tubes.length[:, None] * forward + sagitta * side
        cloud.append((line[..., None] + x * side[..., None] + y * other[..., None]).reshape(points))
    volume = jnp.pi * radius**2 * tubes.length[:, None] / (_ALONG * _ACROSS)
    volume = jnp.broadcast_to(jnp.where(tubes.there[:, None], volume, 0)[..., None], x.shape)
    return cloud, volume.reshape(points)


def fill(tubes: Tubes, allowed: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How much of each voxel (d, h, w) the tubes fill, and how strong they are there; only where `allowed`.

    share: 0 to 1. strength: the mean of the tubes' in the voxel, weighted by what they fill; 0 where there is none.
    """
    cloud, volume = points_of(tubes)
    share, strong = _summed(cloud, [volume, volume * tubes.strength[:, None]], allowed.shape)
    return jnp.where(allowed, jnp.minimum(share, 1), 0), jnp.where(allowed, strong / jnp.maximum(share, 1e-6), 0)


def share(tubes: Tubes, allowed: jax.Array) -> jax.Array:
    """The first of what `fill` returns, without the work for the other."""
    cloud, volume = points_of(tubes)
    (total,) = _summed(cloud, [volume], allowed.shape)
    return jnp.where(allowed, jnp.minimum(total, 1), 0)


def _summed(cloud: list[jax.Array], weights: list[jax.Array], shape: tuple[int, ...]) -> list[jax.Array]:
    """What the points of a cloud bring to the voxels that they lie in, (d, h, w) of each kind of weight.

    Summed in whole numbers: a GPU adds in any order, and only of these is the sum the same bits each time.
    """
    inside, flat = flat_index([jnp.round(place).astype(jnp.int32) for place in cloud], shape)
    size = math.prod(shape)
    flat = jnp.where(inside, flat, size).ravel()
    units = jnp.round(jnp.stack(weights, -1) * _UNITS).astype(jnp.uint32)
    total = jnp.zeros((size, len(weights)), jnp.uint32).at[flat].add(units.reshape(-1, len(weights)), mode="drop")
    return [total[:, kind].astype(jnp.float32).reshape(shape) / _UNITS for kind in range(len(weights))]


def most_here(most: int, shape: tuple[int, ...], more: int) -> int:
    """How many of a whole brain's tubes a patch has room for."""
    return min(most, math.ceil(2.5 * most * math.prod(shape) / WHOLE_BRAIN_MM3) + more)
