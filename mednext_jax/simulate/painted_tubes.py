"""Tubes painted on the device: shapes drawn, and how much of each voxel they fill.

A tube is a cloud of points that is even in its volume; each point brings its share of the volume to the voxel that it
lies in. That is partial volume by supersampling, without a loop over tubes or a box around each.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mednext_jax.simulate.random_fields import Draws, unit

_ALONG, _ACROSS = 48, 14  # points along a tube and in each of its discs
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
    """Tubes at these places; `width` and `length`: median and the deviation of the logarithm, log-normal, cut."""
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


def points_of(tubes: Tubes) -> tuple[jax.Array, jax.Array]:
    """Points (m, n, 3) evenly in the volume of each tube, and the voxels (m, n) that each stands for."""
    at = (np.arange(_ALONG) + 0.5) / _ALONG
    disc = np.sqrt((np.arange(_ACROSS) + 0.5) / _ACROSS)
    # Each disc is turned against the one before, so that no column of points follows the tube.
    angle = _GOLDEN * (np.arange(_ACROSS)[None] + 0.37 * np.arange(_ALONG)[:, None] * _ACROSS)
    s, third = jnp.asarray(at), jnp.cross(tubes.direction, tubes.side)
    radius = tubes.width[:, None] / 2 * (1 + (tubes.taper[:, None] - 1) * s)  # (m, along)
    sagitta = tubes.bend[:, None] * tubes.length[:, None] * (4 * s * (1 - s) - 2 / 3)
    line = (
        tubes.middle[:, None]
        + (s - 0.5)[None, :, None] * (tubes.length[:, None] * tubes.direction)[:, None]
        + sagitta[..., None] * tubes.side[:, None]
    )
    x = jnp.asarray(disc * np.cos(angle))[None] * radius[..., None]  # (m, along, across)
    y = jnp.asarray(disc * np.sin(angle))[None] * radius[..., None]
    cloud = line[:, :, None] + x[..., None] * tubes.side[:, None, None] + y[..., None] * third[:, None, None]
    volume = jnp.pi * radius**2 * tubes.length[:, None] / (_ALONG * _ACROSS)
    volume = jnp.broadcast_to(jnp.where(tubes.there[:, None], volume, 0)[..., None], x.shape)
    points = len(tubes.length), _ALONG * _ACROSS
    return cloud.reshape(*points, 3), volume.reshape(points)


def fill(tubes: Tubes, allowed: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How much of each voxel (d, h, w) the tubes fill, and how strong they are there; only where `allowed`.

    share: 0 to 1. strength: the mean of the tubes' in the voxel, weighted by what they fill; 0 where there is none.
    """
    where, volume = points_of(tubes)
    index = jnp.round(where).astype(jnp.int32)
    shape = allowed.shape
    inside = jnp.all((index >= 0) & (index < jnp.array(shape)), axis=-1)
    flat = jnp.where(inside, jnp.ravel_multi_index(tuple(jnp.moveaxis(index, -1, 0)), shape, mode="clip"), allowed.size)
    weights = jnp.stack([volume, volume * tubes.strength[:, None]], -1)
    total = jnp.zeros((allowed.size, 2)).at[flat.ravel()].add(weights.reshape(-1, 2), mode="drop")
    share, strong = total[:, 0].reshape(shape), total[:, 1].reshape(shape)
    return jnp.where(allowed, jnp.minimum(share, 1), 0), jnp.where(allowed, strong / jnp.maximum(share, 1e-6), 0)


def most_here(most: int, shape: tuple[int, ...], more: int) -> int:
    """How many of a whole brain's tubes a patch has room for."""
    return min(most, math.ceil(2.5 * most * math.prod(shape) / WHOLE_BRAIN_MM3) + more)
