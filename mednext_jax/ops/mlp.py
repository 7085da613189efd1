"""The second half of every MedNeXt block: norm, expand, GELU, [global response norm], compress, residual."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from mednext_jax.ops.gelu import gelu
from mednext_jax.ops.norm import behind_front_planes, global_response_norm, instance_norm, layer_norm
from mednext_jax.ops.pointwise import pointwise


class MLPWeights(NamedTuple):
    """Float32 parameters of one block's second half; c -> r (expanded) -> e channels."""

    norm_scale: Array  # (c,)
    norm_bias: Array  # (c,)
    expand_kernel: Array  # (c, r)
    expand_bias: Array  # (r,)
    compress_kernel: Array  # (r, e)
    compress_bias: Array  # (e,)
    grn_gamma: Array | None = None  # (r,)
    grn_beta: Array | None = None  # (r,)


def norm_mlp(u: Array, weights: MLPWeights, *, norm: str, residual: Array | None, front_void: bool) -> Array:
    """`u` (n, d, h, w, c), the depthwise convolution's output -> (n, d, h, w, e), plus `residual` of that shape.

    `front_void` (up blocks): plane 0 of each axis is outside the block; it counts in no statistic and comes out 0.
    """
    keep = behind_front_planes(u) if front_void else None
    if norm == "group":
        h = instance_norm(u, weights.norm_scale, weights.norm_bias, keep)
    else:
        h = layer_norm(u, weights.norm_scale, weights.norm_bias)
    h = gelu(pointwise(h.astype(u.dtype), weights.expand_kernel, weights.expand_bias))
    if weights.grn_gamma is not None and weights.grn_beta is not None:
        h = global_response_norm(h, weights.grn_gamma, weights.grn_beta, keep)
    y = pointwise(h, weights.compress_kernel, weights.compress_bias)
    if residual is not None:
        y = y + residual
    return y if keep is None else jnp.where(keep, y, 0)
