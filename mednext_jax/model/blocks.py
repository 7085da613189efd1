"""The three MedNeXt blocks: a depthwise convolution, then norm and MLP, around a residual path."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import ScopeParamShapeError
from jax import Array

from mednext_jax.ops.local import LocalOps
from mednext_jax.ops.mlp import MLPWeights


class ConvWeights(nn.Module):
    """Kernel of `shape` and bias of one convolution, initialised as in PyTorch."""

    shape: tuple[int, ...]
    transposed: bool = False

    @property
    def half_width(self) -> float:
        """Bound b of PyTorch's default initialisation U(-b, b), kernel and bias: 1 / sqrt(fan_in).

        For transposed convolutions PyTorch takes the output channels of a group for fan_in's channels.
        """
        if len(self.shape) == 4:  # depthwise (k, k, k, c): one channel per group, transposed or not
            return math.prod(self.shape[:3]) ** -0.5
        return self.shape[1 if self.transposed else 0] ** -0.5

    @nn.compact
    def __call__(self) -> tuple[Array, Array]:
        init = _uniform(self.half_width)
        return _parameter(self, "kernel", init, self.shape), _parameter(self, "bias", init, self.shape[-1:])


class NormWeights(nn.Module):
    """Scale and bias of a norm, per channel: 1 and 0 at first."""

    channels: int

    @nn.compact
    def __call__(self) -> tuple[Array, Array]:
        scale = _parameter(self, "scale", nn.initializers.ones, (self.channels,))
        return scale, _parameter(self, "bias", nn.initializers.zeros, (self.channels,))


def _parameter(module: nn.Module, name: str, init: Callable[..., Array], shape: tuple[int, ...]) -> Array:
    """`module.param` without its tracing of `init` for the shape: half the time in which L k5 is traced."""
    if not module.has_variable("params", name):
        return module.param(name, init, shape)
    value: Array = module.get_variable("params", name)
    if value.shape != shape:
        raise ScopeParamShapeError(name, module.scope.path_text if module.scope else "", value.shape, shape)
    return value


class _Block(nn.Module):
    """Fields and parameters that the three blocks share. Hidden width is `expansion` times the *input* channels."""

    in_channels: int
    out_channels: int
    expansion: int
    kernel_size: int
    norm: str = "group"
    grn: bool = False
    residual: bool = True
    ops: LocalOps = LocalOps()

    def depthwise_weights(self) -> tuple[Array, Array]:
        k = self.kernel_size
        return ConvWeights((k, k, k, self.in_channels), name="conv1")()

    def mlp_weights(self) -> MLPWeights:
        hidden = self.expansion * self.in_channels
        weights = MLPWeights(
            *NormWeights(self.in_channels, name="norm")(),
            *ConvWeights((self.in_channels, hidden), name="conv2")(),
            *ConvWeights((hidden, self.out_channels), name="conv3")(),
            norm=self.norm,
        )
        if not self.grn:
            return weights
        gamma = self.param("grn_gamma", nn.initializers.zeros, (hidden,))
        return dataclasses.replace(
            weights, grn_gamma=gamma, grn_beta=self.param("grn_beta", nn.initializers.zeros, (hidden,))
        )

    def residual_weights(self, *, transposed: bool) -> tuple[Array, Array] | None:
        """Weights of the 1x1x1 convolution beside a block that changes the extents."""
        if not self.residual:
            return None
        return ConvWeights((self.in_channels, self.out_channels), transposed=transposed, name="res_conv")()


class MedNeXtBlock(_Block):
    """`x` (n, d, h, w, in_channels) -> the same extents, out_channels. Roy et al. 2023; MIC-DKFZ `MedNeXtBlock`."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return self.ops.block(x, self.depthwise_weights(), self.mlp_weights(), residual=self.residual)


class MedNeXtDownBlock(_Block):
    """Halves the extents; MIC-DKFZ `MedNeXtDownBlock`. `residual`: a strided 1x1x1 convolution beside."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        conv1, weights = self.depthwise_weights(), self.mlp_weights()
        return self.ops.down_block(x, conv1, weights, self.residual_weights(transposed=False))


class MedNeXtUpBlock(_Block):
    """Doubles the extents n and adds `skip`, the encoder's activation of these; MIC-DKFZ `MedNeXtUpBlock`.

    PyTorch's transposed convolution yields 2n - 1 voxels per axis; norm and MLP see only these, and one plane of zeros
    is padded in front. So the first plane of each axis of the result is exactly `skip`, and counts in no statistic.
    """

    @nn.compact
    def __call__(self, x: Array, skip: Array) -> Array:
        conv1, weights = self.depthwise_weights(), self.mlp_weights()
        return self.ops.up_block(x, conv1, weights, self.residual_weights(transposed=True), skip)


def _uniform(bound: float) -> Callable[[Array, tuple[int, ...]], Array]:
    return lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -bound, bound)
