"""The instance norm between a block's TPU kernels, from the few numbers per channel that they exchange."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from mednext_jax.kernels.mosaic.layout import Lines
from mednext_jax.ops.norm import EPSILON
from mednext_jax.ops.split import Split, sum_of_parts


class InstanceNorm(NamedTuple):
    """The norm of u as scale (u - mean) + shift, and what its backward needs; (n, c) float32 but shift and voxels."""

    mean: Array
    scale: Array
    shift: Array
    deviation: Array  # 1 / sqrt(variance + epsilon)
    voxels: Array  # () float32, of the whole volume


class ThroughNorm(NamedTuple):
    """The gradient at the norm's input is scale dt + slope u + level; (n, c) float32 each."""

    scale: Array
    slope: Array
    level: Array


def fold(
    sums: Array, bias: Array, weights: tuple[Array, Array], lines: Lines, split: Split, front: bool
) -> InstanceNorm:
    """The norm from `sums` (n, 2, c) over this part's voxels of u - bias and of its square; `weights`: scale and bias.

    front: the first plane of each axis of the volume is padding, which `sums` leave out. Around the bias, since a mean
    far above the deviation would cost a sum of squares its digits.
    """
    extents = [
        extent * (lax.axis_size(name) if name else 1) - front
        for extent, name in zip((lines.d, lines.h, lines.w), split, strict=True)
    ]
    voxels = jnp.float32(math.prod(extents))
    apart, squares = jnp.moveaxis(sum_of_parts(sums, split) / voxels, 1, 0)
    deviation = lax.rsqrt(jnp.maximum(squares - jnp.square(apart), 0) + EPSILON)
    gain, shift = weights
    return InstanceNorm(bias + apart, gain * deviation, jnp.broadcast_to(shift, apart.shape), deviation, voxels)


def backward(sums: Array, norm: InstanceNorm, split: Split) -> tuple[Array, Array, ThroughNorm]:
    """Gradients of the norm's scale and bias, and the way through it, from sums of dt and of dt (u - mean) (n, 2, c).

    The gradients are this device's part of a split volume, the way through is that of the whole.
    """
    by_scale, by_bias = (sums[:, 1] * norm.deviation).sum(0), sums[:, 0].sum(0)
    total_dt, total_product = jnp.moveaxis(sum_of_parts(sums, split) / norm.voxels, 1, 0)
    slope = -norm.scale * jnp.square(norm.deviation) * total_product
    return by_scale, by_bias, ThroughNorm(norm.scale, slope, -norm.scale * total_dt - slope * norm.mean)
