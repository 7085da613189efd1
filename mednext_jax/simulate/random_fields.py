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


class Draws:
    """Random numbers from one key, each from a stream of its own: the n-th draw folds n into the key."""

    def __init__(self, key: jax.Array):
        self._key, self._count = key, 0

    def key(self) -> jax.Array:
        self._count += 1
        return jax.random.fold_in(self._key, self._count)

    def uniform(self, span: Sequence[float], shape: tuple[int, ...] = ()) -> jax.Array:
        return jax.random.uniform(self.key(), shape, minval=span[0], maxval=span[1])

    def log_uniform(self, span: Sequence[float], shape: tuple[int, ...] = ()) -> jax.Array:
        return jnp.exp(self.uniform([math.log(max(end, 1e-6)) for end in span], shape))

    def normal(self, shape: tuple[int, ...] = ()) -> jax.Array:
        return jax.random.normal(self.key(), shape)

    def chance(self, probability: float | jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
        return jax.random.uniform(self.key(), shape) < probability

    def index(self, count: int | jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
        return jax.random.randint(self.key(), shape, 0, count)

    def weighted(self, weights: Sequence[float]) -> jax.Array:
        """An index, with probabilities as the weights."""
        ends = np.cumsum(weights) / np.sum(weights)
        return jnp.searchsorted(jnp.asarray(ends[:-1]), jax.random.uniform(self.key()), side="right")

    def count(self, span: Sequence[int]) -> jax.Array:
        """A whole number, both ends included; n is as likely as log((n + 2) / (n + 1)): few more often than many."""
        low, high = span
        drawn = jnp.exp(self.uniform((math.log(low + 1), math.log(high + 2)))) - 1
        return jnp.clip(jnp.floor(drawn), low, high).astype(jnp.int32)

    def direction(self, shape: tuple[int, ...]) -> jax.Array:
        """Unit vectors (..., 3), every direction as likely."""
        return unit(self.normal((*shape, 3)))

    def smooth(self, shape: Sequence[int], spacing: float, channels: int | None = None) -> jax.Array:
        """A field of mean 0 and variance 1 that is smooth over `spacing` voxels; with `channels` several, last axis."""
        nodes = tuple(nodes_along(n, spacing) for n in shape)
        field = self.normal(nodes if channels is None else (*nodes, channels))
        for axis, n in enumerate(shape):
            field = along_axis(_spline(n, spacing), field, axis)
        return field / _LEFT ** (len(shape) / 2)


def unit(vectors: jax.Array) -> jax.Array:
    """Vectors (..., 3) of length 1."""
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)


def along_axis(matrix: jax.Array | np.ndarray, field: jax.Array, axis: int) -> jax.Array:
    """`matrix` (m, n) times the lines of `field` along an axis of n."""
    # In whole float32: factors rounded as GPUs and TPUs do by themselves would show as stripes.
    return jnp.moveaxis(jnp.tensordot(matrix, field, (1, axis), precision=jax.lax.Precision.HIGHEST), 0, axis)


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
