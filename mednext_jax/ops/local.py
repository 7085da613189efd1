"""The operations that the network is written over, for one device and channels-last activations."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array

from mednext_jax.ops import depthwise, mlp, pointwise


@dataclasses.dataclass(frozen=True)
class LocalOps:
    """Every operation that knows the layout of activations or that a volume has borders.

    The network hands activations from one of these to the next and never indexes them, so another layout (channels
    first for GPU kernels) or a volume spread over devices is another class with these methods.
    """

    def enter(self, x: Array) -> Array:
        """(n, d, h, w, c) -> the layout of activations."""
        return x

    def leave(self, x: Array) -> Array:
        """The layout of activations -> (n, d, h, w, c)."""
        return x

    def depthwise_conv(self, x: Array, kernel: Array, bias: Array) -> Array:
        return depthwise.depthwise_conv(x, kernel, bias)

    def depthwise_down(self, x: Array, kernel: Array, bias: Array) -> Array:
        return depthwise.depthwise_down(x, kernel, bias)

    def depthwise_up(self, x: Array, kernel: Array, bias: Array) -> Array:
        return depthwise.depthwise_up(x, kernel, bias)

    def pointwise(self, x: Array, kernel: Array, bias: Array, *, dtype: jnp.dtype | None = None) -> Array:
        return pointwise.pointwise(x, kernel, bias, dtype=dtype)

    def pointwise_down(self, x: Array, kernel: Array, bias: Array) -> Array:
        return pointwise.pointwise_down(x, kernel, bias)

    def pointwise_up(self, x: Array, kernel: Array, bias: Array) -> Array:
        return pointwise.pointwise_up(x, kernel, bias)

    def norm_mlp(
        self, u: Array, weights: mlp.MLPWeights, *, norm: str, residual: Array | None, front_void: bool = False
    ) -> Array:
        return mlp.norm_mlp(u, weights, norm=norm, residual=residual, front_void=front_void)
