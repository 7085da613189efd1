"""The two normalisations of MedNeXt and its global response normalisation, with float32 statistics."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array, lax

from mednext_jax.ops.split import WHOLE, Split, sum_of_parts

# PyTorch's GroupNorm and MIC-DKFZ's LayerNorm; Flax's default is 1e-6.
EPSILON = 1e-5
GRN_EPSILON = 1e-6
SPACE = (1, 2, 3)


def inside_front_padding(x: Array, split: Split = WHOLE) -> Array:
    """Mask of an up block's volume without the plane of zeros that PyTorch pads in front of each spatial axis.

    `x` (n, d, h, w, c) -> (1, d, h, w, 1), false on the volume's first plane along d, h and w.
    """
    keep = jnp.ones((1, 1, 1, 1, 1), bool)
    for axis, name in zip(SPACE, split, strict=True):
        index = lax.broadcasted_iota(jnp.int32, tuple(n if a == axis else 1 for a, n in enumerate(x.shape)), axis)
        front = index == 0 if name is None else (index == 0) & (lax.axis_index(name) == 0)
        keep = keep & ~front
    return keep


def moments(
    x: Array, keep: Array | None = None, split: Split = WHOLE, *, one_pass: bool = False
) -> tuple[Array, Array]:
    """Mean and biased variance over the voxels in `keep` (all); `x` (n, d, h, w, c) -> (n, 1, 1, 1, c) twice.

    They run over the whole volume, also of one that is split. one_pass: from the sums of x and its square, which an
    accelerator makes where x is made; that cancels where the mean is hundreds of deviations, which bfloat16 cannot
    tell apart anyway.
    """
    x = _floats(x)
    extents = [n * (lax.axis_size(name) if name else 1) for n, name in zip(x.shape[1:4], split, strict=True)]
    count = math.prod(extents if keep is None else [extent - 1 for extent in extents])
    mean = _total(_masked(x, keep), split) / count
    if one_pass:
        squares = _total(_masked(jnp.square(x), keep), split) / count
        return mean, jnp.maximum(squares - jnp.square(mean), 0)
    variance = _total(_masked(jnp.square(x - mean), keep), split) / count
    return mean, variance


def standardise(x: Array, mean: Array, variance: Array, scale: Array, bias: Array) -> Array:
    """Norm by given moments, then affine: with `moments`, GroupNorm of one group per channel; float32."""
    return (x - mean) * (lax.rsqrt(variance + EPSILON) * scale) + bias


def layer_norm(x: Array, scale: Array, bias: Array) -> Array:
    """Over the channels of each voxel of (n, d, h, w, c); float32."""
    x = _floats(x)
    mean = x.mean(-1, keepdims=True)
    variance = jnp.square(x - mean).mean(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(variance + EPSILON) * scale + bias


def global_response_norm(h: Array, gamma: Array, beta: Array, keep: Array | None = None, split: Split = WHOLE) -> Array:
    """gamma (h N) + beta + h, N = |h|_2 over space / (its mean over channels + 1e-6); `h` (n, d, h, w, c)."""
    squares = _total(_masked(jnp.square(_floats(h)), keep), split)
    # The square root's slope at 0 is infinite: a channel that is 0 everywhere gets gradient 0, as in PyTorch.
    norm = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
    response = norm / (norm.mean(-1, keepdims=True) + GRN_EPSILON)  # (n, 1, 1, 1, c)
    return (h * (gamma * response + 1) + beta).astype(h.dtype)


def _total(x: Array, split: Split) -> Array:
    """The sum over the whole volume of (n, d, h, w, c) -> (n, 1, 1, 1, c)."""
    return sum_of_parts(x.sum(SPACE, keepdims=True), split)


def _masked(x: Array, keep: Array | None) -> Array:
    return x if keep is None else jnp.where(keep, x, 0)


def _floats(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
