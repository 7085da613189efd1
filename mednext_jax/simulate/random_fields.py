"""Random numbers on the device: draws in order from one key, and smooth random fields."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

# Mean over a cell of the sum of squared weights of a cubic B-spline: what interpolation leaves of a variance, per axis.
_LEFT = 151 / 315
_TOGETHER = 64  # single numbers that a stream makes at once


class Draws:
    """Random numbers from one key, each from a stream of its own: the n-th draw folds n into the key.

    Single numbers are made 64 at once: each by itself would be a kernel or two of a GPU.
    """

    def __init__(self, key: jax.Array):
        self._key, self._count = key, 0
        self._single: dict[int, jax.Array] = {}

    def key(self) -> jax.Array:
        self._count += 1
        return jax.random.fold_in(self._key, self._count)

    def bits(self, shape: tuple[int, ...] = ()) -> jax.Array:
        """32 random bits each, uint32."""
        if shape:
            return jax.random.bits(self.key(), shape)
        self._count += 1
        block, at = divmod(self._count, _TOGETHER)
        if block not in self._single:
            self._single[block] = jax.random.bits(jax.random.fold_in(self._key, 2**31 + block), (_TOGETHER,))
        return self._single[block][at]

    def uniform(self, span: Sequence[float], shape: tuple[int, ...] = ()) -> jax.Array:
        return span[0] + _even(self.bits(shape)) * (span[1] - span[0])

    def log_uniform(self, span: Sequence[float], shape: tuple[int, ...] = ()) -> jax.Array:
        return jnp.exp(self.uniform([math.log(max(end, 1e-6)) for end in span], shape))

    def normal(self, shape: tuple[int, ...] = ()) -> jax.Array:
        return _normal(self.bits(shape))

    def two_normals(self, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
        """Two arrays of normal numbers for the work of one: a key that is split is two words."""
        words = jax.random.key_data(jax.random.split(self.key(), shape))
        return _normal(words[..., 0]), _normal(words[..., 1])

    def chance(self, probability: float | jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
        return _even(self.bits(shape)) < probability

    def index(self, count: int, shape: tuple[int, ...] = ()) -> jax.Array:
        return jnp.floor(_even(self.bits(shape)) * count).astype(jnp.int32)

    def weighted(self, weights: Sequence[float]) -> jax.Array:
        """An index, with probabilities as the weights."""
        ends = np.cumsum(weights) / np.sum(weights)
        return jnp.sum(jnp.asarray(ends[:-1]) <= _even(self.bits()))

    def count(self, span: Sequence[int]) -> jax.Array:
        """A whole number, both ends included; n is as likely as log((n + 2) / (n + 1)): few more often than many."""
        low, high = span
        drawn = jnp.exp(self.uniform((math.log(low + 1), math.log(high + 2)))) - 1
        return jnp.clip(jnp.floor(drawn), low, high).astype(jnp.int32)

    def direction(self, shape: tuple[int, ...]) -> jax.Array:
        """Unit vectors (..., 3), every direction as likely."""
        return unit(self.normal((*shape, 3)))

    def nodes(self, shape: Sequence[int], spacing: float, channels: int | None = None) -> jax.Array:
        """What `splined` makes a field of mean 0 and variance 1 of; of `channels`: the last axis."""
        nodes = tuple(nodes_along(n, spacing) for n in shape)
        field = self.normal(nodes if channels is None else (*nodes, channels))
        return field / _LEFT ** (len(shape) / 2)

    def smooth(self, shape: Sequence[int], spacing: float, channels: int | None = None) -> jax.Array:
        """A field of mean 0 and variance 1 that is smooth over `spacing` voxels; of `channels`: the first axis."""
        return splined(self.nodes(shape, spacing, channels), shape, spacing)


def unit(vectors: jax.Array) -> jax.Array:
    """Vectors (..., 3) of length 1."""
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)


def along_axes(matrices: Sequence[jax.Array | np.ndarray], field: jax.Array) -> jax.Array:
    """`matrices`, (m, n) each, times the lines of `field` (d, h, w) along its axes in turn.

    (d, h, w, c) -> (c, d, h, w). Each product sums over the first axis and puts the new one last, so that no array is
    transposed in memory.
    """
    for matrix in matrices:
        # In whole float32: factors rounded as GPUs and TPUs do by themselves would show as stripes.
        field = jnp.tensordot(field, matrix, (0, 1), precision=jax.lax.Precision.HIGHEST)
    return field


def splined(nodes: jax.Array, shape: Sequence[int], spacing: float) -> jax.Array:
    """The cubic B-spline with these nodes, `spacing` voxels apart, on voxels (d, h, w); of (..., c): (c, d, h, w)."""
    return along_axes([_spline(n, spacing) for n in shape], nodes)


def splined_at(nodes: jax.Array, shape: Sequence[int], spacing: float, voxels: jax.Array) -> jax.Array:
    """(m, c): `splined` with nodes (..., c) at single voxels (m, 3) int, without the others."""
    weights = [jnp.asarray(_spline(n, spacing))[voxels[:, axis]] for axis, n in enumerate(shape)]
    return jnp.einsum("ijkc,mi,mj,mk->mc", nodes, *weights, precision=jax.lax.Precision.HIGHEST)


def nodes_along(voxels: int, spacing: float) -> int:
    """Nodes of a cubic B-spline over so many voxels."""
    return math.ceil((voxels - 1) / spacing) + 4


@functools.lru_cache
def _spline(voxels: int, spacing: float) -> np.ndarray:
    """(voxels, nodes) float32: values of cubic B-splines."""
    at = np.arange(voxels)[:, None] / spacing + 1 - np.arange(nodes_along(voxels, spacing))
    away = np.abs(at)
    near, far = 2 / 3 - away**2 + away**3 / 2, (2 - away) ** 3 / 6
    return np.where(away < 1, near, np.where(away < 2, far, 0)).astype(np.float32)


def _even(bits: jax.Array) -> jax.Array:
    """[0, 1), of 23 of the bits: times a whole number it stays below that."""
    return (bits >> 9).astype(jnp.float32) * 2.0**-23


def _normal(bits: jax.Array) -> jax.Array:
    """Normal numbers as of `jax.random.normal`, in the middle of each of 2^23 steps, so that both tails end at 5.2."""
    return math.sqrt(2) * jax.lax.erf_inv(2 * _even(bits) + (2.0**-23 - 1))
