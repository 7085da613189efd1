"""The two normalisations of MedNeXt and its global response normalisation, with float32 statistics in two passes."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array, lax

# PyTorch's GroupNorm and MIC-DKFZ's LayerNorm; Flax's default is 1e-6.
EPSILON = 1e-5
GRN_EPSILON = 1e-6
SPACE = (1, 2, 3)


def behind_front_planes(x: Array) -> Array:
    """True but on plane 0 of each spatial axis; `x` (n, d, h, w, c) -> (1, d, h, w, 1)."""
    keep = jnp.ones((1, 1, 1, 1, 1), bool)
    for axis in SPACE:
        index = lax.broadcasted_iota(jnp.int32, tuple(n if a == axis else 1 for a, n in enumerate(x.shape)), axis)
        keep = keep & (index > 0)
    return keep


def moments(x: Array, keep: Array | None = None) -> tuple[Array, Array]:
    """Mean and biased variance over the voxels in `keep` (all); `x` (n, d, h, w, c) -> (n, 1, 1, 1, c) twice."""
    x = x.astype(jnp.float32)
    count = math.prod(x.shape[1:4]) if keep is None else math.prod(extent - 1 for extent in x.shape[1:4])
    mean = _masked(x, keep).sum(SPACE, keepdims=True) / count
    variance = _masked(jnp.square(x - mean), keep).sum(SPACE, keepdims=True) / count
    return mean, variance


def instance_norm(x: Array, scale: Array, bias: Array, keep: Array | None = None) -> Array:
    """GroupNorm with one group a channel: over the voxels in `keep` of (n, d, h, w, c); float32."""
    mean, variance = moments(x, keep)
    return (x - mean) * (lax.rsqrt(variance + EPSILON) * scale) + bias


def layer_norm(x: Array, scale: Array, bias: Array) -> Array:
    """Over the channels of each voxel of (n, d, h, w, c); float32."""
    x = x.astype(jnp.float32)
    mean = x.mean(-1, keepdims=True)
    variance = jnp.square(x - mean).mean(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(variance + EPSILON) * scale + bias


def global_response_norm(h: Array, gamma: Array, beta: Array, keep: Array | None = None) -> Array:
    """gamma (h N) + beta + h, N = |h|_2 over space / (its mean over channels + 1e-6); `h` (n, d, h, w, c)."""
    squares = _masked(jnp.square(h.astype(jnp.float32)), keep).sum(SPACE, keepdims=True)
    # The square root's slope at 0 is infinite: a channel that is 0 everywhere gets gradient 0, as in PyTorch.
    norm = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
    response = norm / (norm.mean(-1, keepdims=True) + GRN_EPSILON)  # (n, 1, 1, 1, c)
    return (h * (gamma * response + 1) + beta).astype(h.dtype)


def _masked(x: Array, keep: Array | None) -> Array:
    return x if keep is None else jnp.where(keep, x, 0)
