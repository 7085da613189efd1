"""The network's operations on channels-first activations: fused kernels for the blocks, XLA for the rest."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from mednext_jax.kernels import blocks
from mednext_jax.kernels.gpus import tell_once
from mednext_jax.kernels.launch import INTERPRETED
from mednext_jax.kernels.tiles import has_kernel_size
from mednext_jax.ops import blocks as composed
from mednext_jax.ops.blocks import Conv
from mednext_jax.ops.depthwise import NO_HALO, Halo
from mednext_jax.ops.local import LocalOps
from mednext_jax.ops.mlp import MLPWeights
from mednext_jax.ops.norm import WHOLE, Split
from mednext_jax.ops.pointwise import precision_for

# Offsets inside the kernels are 32-bit.
_MOST_ELEMENTS = 2**31


@dataclasses.dataclass(frozen=True)
class ChannelsFirstOps(LocalOps):
    """`LocalOps` with activations (n, c, d, h, w), as the kernels want them.

    What the kernels cannot take (`_refusal`) runs as the composition of XLA operations, with one log line.
    """

    space_axes: ClassVar[tuple[int, int, int]] = (2, 3, 4)

    def enter(self, x: Array) -> Array:
        return _first(x)

    def leave(self, x: Array) -> Array:
        return _last(x)

    def block(
        self,
        x: Array,
        conv1: Conv,
        weights: MLPWeights,
        *,
        norm: str,
        residual: bool,
        halo: Halo = NO_HALO,
        split: Split = WHOLE,
    ) -> Array:
        reason = _refusal(x, conv1, weights, norm, 1)
        if reason:
            tell_once(f"a block {reason}: it runs as XLA operations")
            return composed.block(self, x, conv1, weights, norm=norm, residual=residual, halo=halo, split=split)
        return blocks.block(x, conv1, weights, residual, halo, split)

    def down_block(self, x: Array, conv1: Conv, weights: MLPWeights, res_conv: Conv | None, *, norm: str) -> Array:
        reason = _refusal(x, conv1, weights, norm, 1)
        if reason:
            tell_once(f"a down block {reason}: it runs as XLA operations")
            return composed.down_block(self, x, conv1, weights, res_conv, norm=norm)
        return blocks.down_block(x, conv1, weights, res_conv)

    def up_block(
        self, x: Array, conv1: Conv, weights: MLPWeights, res_conv: Conv | None, skip: Array, *, norm: str
    ) -> Array:
        reason = _refusal(x, conv1, weights, norm, 8)
        if reason:
            tell_once(f"an up block {reason}: it runs as XLA operations")
            return composed.up_block(self, x, conv1, weights, res_conv, skip, norm=norm)
        return blocks.up_block(x, conv1, weights, res_conv, skip)

    def pointwise(self, x: Array, kernel: Array, bias: Array, *, dtype: jnp.dtype | None = None) -> Array:
        precision = precision_for(x)
        kernel = kernel.astype(x.dtype)
        y = jnp.einsum("ce,ncdhw->nedhw", kernel, x, precision=precision, preferred_element_type=jnp.float32)
        return (y + bias[:, None, None, None]).astype(dtype or x.dtype)

    # The composed form's operations: XLA cancels the transpositions between one and the next.

    def depthwise_conv(self, x: Array, kernel: Array, bias: Array, halo: Halo = NO_HALO) -> Array:
        return _first(super().depthwise_conv(_last(x), kernel, bias, halo))

    def depthwise_down(self, x: Array, kernel: Array, bias: Array, halo: Halo = NO_HALO) -> Array:
        return _first(super().depthwise_down(_last(x), kernel, bias, halo))

    def depthwise_up(self, x: Array, kernel: Array, bias: Array, halo: Halo = NO_HALO) -> Array:
        return _first(super().depthwise_up(_last(x), kernel, bias, halo))

    def pointwise_down(self, x: Array, kernel: Array, bias: Array) -> Array:
        return _first(super().pointwise_down(_last(x), kernel, bias))

    def pointwise_up(self, x: Array, kernel: Array, bias: Array) -> Array:
        return _first(super().pointwise_up(_last(x), kernel, bias))

    def norm_mlp(
        self,
        u: Array,
        weights: MLPWeights,
        *,
        norm: str,
        residual: Array | None,
        front_void: bool = False,
        split: Split = WHOLE,
    ) -> Array:
        beside = None if residual is None else _last(residual)
        y = super().norm_mlp(_last(u), weights, norm=norm, residual=beside, front_void=front_void, split=split)
        return _first(y)


def _refusal(x: Array, conv1: Conv, weights: MLPWeights, norm: str, growth: int) -> str | None:
    """Why the kernels cannot run a block of which the activations have up to `growth` times x's voxels; else none."""
    k, channels = conv1[0].shape[0], max(weights.compress_kernel.shape[1], x.shape[1])
    if x.dtype != (jnp.float32 if INTERPRETED else jnp.bfloat16):
        return f"of type {x.dtype}"
    if norm != "group" or weights.grn_gamma is not None:
        return "with layer norm or global response normalisation"
    if not has_kernel_size(k):
        return f"with depthwise kernels of {k} voxels an axis"
    if x.size // x.shape[1] * growth * channels >= _MOST_ELEMENTS:
        return f"of {x.shape} voxels, more than 32-bit offsets reach,"
    return None


def _first(x: Array) -> Array:
    return jnp.moveaxis(x, -1, 1)


def _last(x: Array) -> Array:
    return jnp.moveaxis(x, 1, -1)
