"""The network's operations on channels-first activations: fused kernels for the blocks, XLA for the rest."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import jax.numpy as jnp
from jax import Array

from mednext_jax.kernels import fused_blocks
from mednext_jax.kernels.gpus import tell_once
from mednext_jax.kernels.tile_sizes import has_kernel_size
from mednext_jax.ops.block_kind import BlockKind
from mednext_jax.ops.local import Conv, LocalOps
from mednext_jax.ops.mlp import MLPWeights
from mednext_jax.ops.pointwise import precision_for
from mednext_jax.ops.split import WHOLE, Split

COMPUTE_TYPE = jnp.bfloat16
_Block = Literal["block", "down", "up"]
_NAMES: dict[_Block, str] = {"block": "a block", "down": "a down block", "up": "an up block"}
# Offsets inside the kernels are 32-bit.
_MOST_ELEMENTS = 2**31


@dataclasses.dataclass(frozen=True)
class ChannelsFirstOps(LocalOps):
    """`LocalOps` with activations (n, c, d, h, w), as the kernels want them.

    What the kernels cannot take (`_refusal`) runs as the composition of XLA operations, with one log line, and so does
    what they have been found not to get right (`refused`).
    """

    space_axes: ClassVar[tuple[int, int, int]] = (2, 3, 4)

    # Kinds of blocks that the kernels do not get right on this machine (`verdicts`).
    refused: frozenset[BlockKind] = frozenset()

    @property
    def described(self) -> str:
        return ", ".join(["the fused kernels", *(f"not of {kind}" for kind in sorted(self.refused))])

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
        residual: bool,
        split: Split = WHOLE,
    ) -> Array:
        if self._is_refused("block", x, conv1, weights, residual, 1):
            return super().block(x, conv1, weights, residual=residual, split=split)
        return fused_blocks.block(x, conv1, weights, residual, split)

    def down_block(self, x: Array, conv1: Conv, weights: MLPWeights, res_conv: Conv | None) -> Array:
        if self._is_refused("down", x, conv1, weights, res_conv is not None, 1):
            return super().down_block(x, conv1, weights, res_conv)
        return fused_blocks.down_block(x, conv1, weights, res_conv)

    def up_block(self, x: Array, conv1: Conv, weights: MLPWeights, res_conv: Conv | None, skip: Array) -> Array:
        if self._is_refused("up", x, conv1, weights, res_conv is not None, 8):
            return super().up_block(x, conv1, weights, res_conv, skip)
        return fused_blocks.up_block(x, conv1, weights, res_conv, skip)

    def _is_refused(
        self, block: _Block, x: Array, conv1: Conv, weights: MLPWeights, residual: bool, growth: int
    ) -> bool:
        """Whether a block runs as XLA operations; says why, once, unless the check has said it."""
        hidden, out_channels = weights.compress_kernel.shape
        kind = BlockKind(block, x.shape[1], hidden, out_channels, conv1[0].shape[0], residual)
        if kind in self.refused:
            return True
        reason = _refusal(x, conv1, weights, growth)
        if reason:
            tell_once(f"{_NAMES[block]} {reason}: it runs as XLA operations")
        return reason is not None

    def pointwise(self, x: Array, kernel: Array, bias: Array, *, dtype: jnp.dtype | None = None) -> Array:
        precision = precision_for(x)
        kernel = kernel.astype(x.dtype)
        y = jnp.einsum("ce,ncdhw->nedhw", kernel, x, precision=precision, preferred_element_type=jnp.float32)
        return (y + bias[:, None, None, None]).astype(dtype or x.dtype)

    # The composed form's operations: XLA cancels the transpositions between one and the next.

    def depthwise_conv(self, x: Array, kernel: Array, bias: Array, split: Split = WHOLE) -> Array:
        return _first(super().depthwise_conv(_last(x), kernel, bias, split))

    def depthwise_down(self, x: Array, kernel: Array, bias: Array, split: Split = WHOLE) -> Array:
        return _first(super().depthwise_down(_last(x), kernel, bias, split))

    def depthwise_up(self, x: Array, kernel: Array, bias: Array, split: Split = WHOLE) -> Array:
        return _first(super().depthwise_up(_last(x), kernel, bias, split))

    def pointwise_down(self, x: Array, kernel: Array, bias: Array) -> Array:
        return _first(super().pointwise_down(_last(x), kernel, bias))

    def pointwise_up(self, x: Array, kernel: Array, bias: Array) -> Array:
        return _first(super().pointwise_up(_last(x), kernel, bias))

    def norm_mlp(
        self,
        u: Array,
        weights: MLPWeights,
        *,
        residual: Array | None,
        front_padding: bool = False,
        split: Split = WHOLE,
    ) -> Array:
        beside = None if residual is None else _last(residual)
        y = super().norm_mlp(_last(u), weights, residual=beside, front_padding=front_padding, split=split)
        return _first(y)


def _refusal(x: Array, conv1: Conv, weights: MLPWeights, growth: int) -> str | None:
    """Why the kernels cannot run a block of which the activations have up to `growth` times x's voxels; else none."""
    k, channels = conv1[0].shape[0], max(weights.compress_kernel.shape[1], x.shape[1])
    if x.dtype != COMPUTE_TYPE:
        return f"of type {x.dtype}"
    if weights.norm != "group" or weights.grn_gamma is not None:
        return "with layer norm or global response normalisation"
    if not has_kernel_size(k):
        return f"with depthwise kernels of {k} voxels per axis"
    if x.size // x.shape[1] * growth * channels >= _MOST_ELEMENTS:
        return f"of {x.shape} voxels, more than 32-bit offsets reach,"
    return None


def _first(x: Array) -> Array:
    return jnp.moveaxis(x, -1, 1)


def _last(x: Array) -> Array:
    return jnp.moveaxis(x, 1, -1)
