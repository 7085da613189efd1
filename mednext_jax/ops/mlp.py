"""The second half of every MedNeXt block: norm, expand, GELU, [global response norm], compress, residual."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name

from mednext_jax.ops.correlate import divisor_up_to
from mednext_jax.ops.gelu import gelu, gelu_by_tanh
from mednext_jax.ops.norm import global_response_norm, inside_front_padding, layer_norm, moments, standardise
from mednext_jax.ops.pointwise import pointwise
from mednext_jax.ops.split import WHOLE, Split

# A chunk of the expanded tensor, as float32: stays in the caches of a CPU.
_CHUNK_BYTES = 2**22


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        *("norm_scale", "norm_bias", "expand_kernel", "expand_bias", "compress_kernel", "compress_bias"),
        *("grn_gamma", "grn_beta"),
    ],
    meta_fields=["norm"],
)
@dataclasses.dataclass(frozen=True)
class MLPWeights:
    """Float32 parameters of one block's second half, c -> r (expanded) -> e channels, and which norm they belong to.

    `norm` is `MedNeXtConfig.norm`; for JAX it is part of the structure, not a leaf.
    """

    norm_scale: Array  # (c,)
    norm_bias: Array  # (c,)
    expand_kernel: Array  # (c, r)
    expand_bias: Array  # (r,)
    compress_kernel: Array  # (r, e)
    compress_bias: Array  # (e,)
    grn_gamma: Array | None = None  # (r,)
    grn_beta: Array | None = None  # (r,)
    norm: str = "group"


# Compiled, so that the many blocks of one shape are traced once.
@functools.partial(jax.jit, static_argnames=("front_padding", "in_chunks", "split", "tpu"))
def norm_mlp(
    u: Array,
    weights: MLPWeights,
    *,
    residual: Array | None,
    front_padding: bool,
    in_chunks: bool,
    split: Split = WHOLE,
    tpu: bool = False,
) -> Array:
    """`u` (n, d, h, w, c), the depthwise convolution's output -> (n, d, h, w, e), plus `residual` of that shape.

    `front_padding` (up blocks): the first plane of each axis is padding; it counts in no statistic and comes out 0.
    `in_chunks`: some voxels at a time, so that the expanded tensor is never whole, in the backward pass neither: more
    than twice as fast on a CPU. Not with global response normalisation, which needs it whole.
    `split`: the mesh axes over which the volume is split, inside `shard_map`.
    `tpu`: for bfloat16, GELU by tanh and the norm's statistics in one pass, the fewest steps and passes of a TPU.
    """
    tpu = tpu and u.dtype == jnp.bfloat16
    keep = inside_front_padding(u, split) if front_padding else None
    statistics = moments(u, keep, split, one_pass=tpu) if weights.norm == "group" else None
    if tpu:  # remat "dw" would sum again all of the `u` that it keeps
        statistics = checkpoint_name(statistics, "dw")
    inside = residual if keep is None else None
    rows = math.prod(u.shape[1:4])
    chunk = divisor_up_to(rows, _CHUNK_BYTES // (4 * weights.expand_bias.size))
    if in_chunks and weights.grn_gamma is None and chunk < rows:
        y = _chunked(u, weights, statistics, inside, chunk)
    else:
        y = _whole(u, weights, statistics, inside, keep, split, gelu_by_tanh if tpu else gelu)
    if keep is None:
        return y
    return jnp.where(keep, y if residual is None else y + residual, 0)


def _whole(
    u: Array,
    weights: MLPWeights,
    statistics: tuple[Array, Array] | None,
    residual: Array | None,
    keep: Array | None = None,
    split: Split = WHOLE,
    activation: Callable[[Array], Array] = gelu,
) -> Array:
    """`u` (..., c) -> (..., e); `statistics` broadcast against it, none for layer norm."""
    if statistics is None:
        h = layer_norm(u, weights.norm_scale, weights.norm_bias)
    else:
        h = standardise(u, *statistics, weights.norm_scale, weights.norm_bias)
    h = activation(pointwise(h.astype(u.dtype), weights.expand_kernel, weights.expand_bias))
    if weights.grn_gamma is not None and weights.grn_beta is not None:
        h = global_response_norm(h, weights.grn_gamma, weights.grn_beta, keep, split)
    y = pointwise(h, weights.compress_kernel, weights.compress_bias)
    return y if residual is None else y + residual


def _chunked(
    u: Array,
    weights: MLPWeights,
    statistics: tuple[Array, Array] | None,
    residual: Array | None,
    chunk: int,
) -> Array:
    """`_whole` for `chunk` voxels of one sample at a time."""

    def pieces(x: Array) -> Array:
        return x.reshape(-1, chunk, x.shape[-1])

    chunks_each = math.prod(u.shape[1:4]) // chunk
    if statistics is not None:
        mean, variance = (jnp.repeat(s.reshape(-1, 1, s.shape[-1]), chunks_each, axis=0) for s in statistics)
        statistics = mean, variance
    operands = pieces(u), statistics, None if residual is None else pieces(residual)

    @jax.checkpoint
    def one(u: Array, statistics: tuple[Array, Array] | None, residual: Array | None) -> Array:
        return _whole(u, weights, statistics, residual)

    y = lax.scan(lambda _, chunk: (None, one(*chunk)), None, operands)[1]
    return y.reshape(*u.shape[:-1], y.shape[-1])
