"""The operations that the network is written over, for one device and channels-last activations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name

from mednext_jax.ops import depthwise, mlp, pointwise
from mednext_jax.ops.correlate import Form, form_for
from mednext_jax.ops.mlp import MLPWeights
from mednext_jax.ops.split import WHOLE, Split, halo_of

Conv = tuple[Array, Array]  # kernel and bias
_ONE_BY_ONE = 4  # blocks of a stage that are compiled one by one


@dataclasses.dataclass(frozen=True)
class LocalOps:
    """Every operation that knows the layout of activations or that a volume has borders.

    The network hands activations from one of these to the next and never indexes them, so another layout (channels
    first for GPU kernels) or a volume spread over devices is another class with these methods.
    """

    # The axes d, h, w of activations.
    space_axes: ClassVar[tuple[int, int, int]] = (1, 2, 3)

    # "cpu", "gpu" (NVIDIA), "rocm" (AMD) or "tpu"; none is JAX's default backend. Only speed depends on it.
    platform: str | None = None

    @property
    def described(self) -> str:
        """What tells the programs of these operations from others', for processes that must run the same."""
        return f"XLA's operations, {self._form}"

    @property
    def _form(self) -> Form:
        return form_for(self.platform)

    @property
    def _tpu(self) -> bool:
        return (self.platform or jax.default_backend()) == "tpu"

    def loops_over(self, blocks: int) -> bool:
        """Whether so many equal blocks of a stage are one compiled loop body, for the sake of the compiler's time.

        A loop copies what it keeps for the backward pass into and out of one array: the few blocks of the large levels
        are faster one by one.
        """
        return self._form == "banded" and blocks > _ONE_BY_ONE

    def enter(self, x: Array) -> Array:
        """(n, d, h, w, c) -> the layout of activations."""
        return x

    def leave(self, x: Array) -> Array:
        """The layout of activations -> (n, d, h, w, c)."""
        return x

    def extents(self, x: Array) -> tuple[int, int, int]:
        """(d, h, w) of the whole volume that the network's input `x` (n, d, h, w, c) is, or is a part of."""
        _, d, h, w, _ = x.shape
        return d, h, w

    def width(self, x: Array) -> int:
        """The extent along w of `x` in the layout of activations."""
        return int(x.shape[self.space_axes[2]])

    def along(self, x: Array, axis: int, change: Callable[[Array, int], Array]) -> Array:
        """`change` of `x` along d, h or w (`axis` 0, 1, 2), which gets an array and which of its axes that is."""
        return change(x, self.space_axes[axis])

    # The three blocks as compositions of the operations below. A class that computes one in fewer steps (fused
    # kernels) overrides it and falls back on this.

    def block(self, x: Array, conv1: Conv, weights: MLPWeights, *, residual: bool, split: Split = WHOLE) -> Array:
        """The block at one resolution: `x`, with a halo of `conv_halo` along the axes of `split` -> the same without.

        `x` is in the layout of activations, as everywhere below.
        """
        u = checkpoint_name(self.depthwise_conv(x, *self.before_norm(x, conv1, weights), split), "dw")
        beside = None
        if residual:
            beside = x
            for axis, here in zip(self.space_axes, halo_of(split), strict=True):
                if here:
                    edge = (x.shape[axis] - u.shape[axis]) // 2
                    beside = lax.slice_in_dim(beside, edge, edge + u.shape[axis], axis=axis)
        return self.norm_mlp(u, weights, residual=beside, split=split)

    def down_block(self, x: Array, conv1: Conv, weights: MLPWeights, res_conv: Conv | None) -> Array:
        """The down block, which halves the extents; with `res_conv` a strided 1x1x1 convolution beside."""
        u = checkpoint_name(self.depthwise_down(x, *self.before_norm(x, conv1, weights)), "dw")
        beside = None if res_conv is None else self.pointwise_down(x, *res_conv)
        return self.norm_mlp(u, weights, residual=beside)

    def up_block(self, x: Array, conv1: Conv, weights: MLPWeights, res_conv: Conv | None, skip: Array) -> Array:
        """The up block, which doubles the extents, plus `skip`; on the first plane of each axis just `skip`."""
        u = checkpoint_name(self.depthwise_up(x, *self.before_norm(x, conv1, weights)), "dw")
        beside = None if res_conv is None else self.pointwise_up(x, *res_conv)
        return skip + self.norm_mlp(u, weights, residual=beside, front_padding=True)

    def before_norm(self, x: Array, conv1: Conv, weights: MLPWeights) -> Conv:
        """`conv1` of a block of `x`, without the bias where the norm that follows would take it out and it costs time.

        On a TPU it does: the sum with it is no part of the convolution, which then is written, and brought into the
        layout of the MLP, as float32. That bias's gradient is 0 instead of rounding noise.
        """
        if weights.norm != "group" or not self._tpu or x.dtype != jnp.bfloat16:
            return conv1
        kernel, bias = conv1
        return kernel, jnp.zeros_like(bias)

    def depthwise_conv(self, x: Array, kernel: Array, bias: Array, split: Split = WHOLE) -> Array:
        return depthwise.depthwise_conv(x, kernel, bias, halo_of(split), self._form)

    def depthwise_down(self, x: Array, kernel: Array, bias: Array, split: Split = WHOLE) -> Array:
        return depthwise.depthwise_down(x, kernel, bias, halo_of(split), self._form)

    def depthwise_up(self, x: Array, kernel: Array, bias: Array, split: Split = WHOLE) -> Array:
        return depthwise.depthwise_up(x, kernel, bias, halo_of(split), self._form)

    def pointwise(self, x: Array, kernel: Array, bias: Array, *, dtype: jnp.dtype | None = None) -> Array:
        return pointwise.pointwise(x, kernel, bias, dtype=dtype)

    def pointwise_down(self, x: Array, kernel: Array, bias: Array) -> Array:
        return pointwise.pointwise_down(x, kernel, bias)

    def pointwise_up(self, x: Array, kernel: Array, bias: Array) -> Array:
        return pointwise.pointwise_up(x, kernel, bias)

    def norm_mlp(
        self,
        u: Array,
        weights: MLPWeights,
        *,
        residual: Array | None,
        front_padding: bool = False,
        split: Split = WHOLE,
    ) -> Array:
        return mlp.norm_mlp(
            u,
            weights,
            residual=residual,
            front_padding=front_padding,
            in_chunks=self._form == "blocks",
            split=split,
            tpu=self._tpu,
        )
