"""MedNeXt's three blocks as compositions of a class's operations: the form that runs everywhere.

A class that computes a block in other steps (fused kernels) falls back on these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name

from mednext_jax.ops.depthwise import NO_HALO, Halo
from mednext_jax.ops.mlp import MLPWeights
from mednext_jax.ops.norm import WHOLE, Split

if TYPE_CHECKING:
    from mednext_jax.ops.local import LocalOps

Conv = tuple[Array, Array]  # kernel and bias


def block(
    ops: LocalOps,
    x: Array,
    conv1: Conv,
    weights: MLPWeights,
    *,
    norm: str,
    residual: bool,
    halo: Halo = NO_HALO,
    split: Split = WHOLE,
) -> Array:
    """`x` in the layout of `ops`, with `conv_halo` more voxels along the axes of `halo` -> the same without them."""
    u = checkpoint_name(ops.depthwise_conv(x, *conv1, halo), "dw")
    beside = None
    if residual:
        beside = x
        for axis, here in zip(ops.space_axes, halo, strict=True):
            if here:
                edge = (x.shape[axis] - u.shape[axis]) // 2
                beside = lax.slice_in_dim(beside, edge, edge + u.shape[axis], axis=axis)
    return ops.norm_mlp(u, weights, norm=norm, residual=beside, split=split)


def down_block(ops: LocalOps, x: Array, conv1: Conv, weights: MLPWeights, res_conv: Conv | None, *, norm: str) -> Array:
    """Halves the extents; with `res_conv` a strided 1x1x1 convolution beside."""
    u = checkpoint_name(ops.depthwise_down(x, *conv1), "dw")
    beside = None if res_conv is None else ops.pointwise_down(x, *res_conv)
    return ops.norm_mlp(u, weights, norm=norm, residual=beside)


def up_block(
    ops: LocalOps, x: Array, conv1: Conv, weights: MLPWeights, res_conv: Conv | None, skip: Array, *, norm: str
) -> Array:
    """Doubles the extents and adds `skip`; on plane 0 of each axis the result is `skip`."""
    u = checkpoint_name(ops.depthwise_up(x, *conv1), "dw")
    beside = None if res_conv is None else ops.pointwise_up(x, *res_conv)
    return skip + ops.norm_mlp(u, weights, norm=norm, residual=beside, front_void=True)
