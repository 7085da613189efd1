"""The operations that the network is written over, for one device and channels-last activations."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from mednext_jax.ops import blocks, depthwise, mlp, pointwise
from mednext_jax.ops.blocks import Conv
from mednext_jax.ops.correlate import Form, form_for
from mednext_jax.ops.depthwise import NO_HALO, Halo
from mednext_jax.ops.norm import WHOLE, Split


@dataclasses.dataclass(frozen=True)
class LocalOps:
    """Every operation that knows the layout of activations or that a volume has borders.

    The network hands activations from one of these to the next and never indexes them, so another layout (channels
    first for GPU kernels) or a volume spread over devices is another class with these methods.
    """

    # The axes d, h, w of activations.
    space_axes: ClassVar[tuple[int, int, int]] = (1, 2, 3)

    # "cpu", "gpu" or "tpu"; none is JAX's default backend. Only speed depends on it.
    platform: str | None = None

    @property
    def _form(self) -> Form:
        return form_for(self.platform)

    @property
    def loops_over_blocks(self) -> bool:
        """Whether the equal blocks of a stage are one compiled loop body, for the sake of the compiler's time."""
        return self._form == "banded"

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

    # The three blocks; what a class computes in fewer steps than these (fused kernels), it overrides.

    def block(
        self,
        x: Array,
        conv1: Conv,
        weights: mlp.MLPWeights,
        *,
        norm: str,
        residual: bool,
        halo: Halo = NO_HALO,
        split: Split = WHOLE,
    ) -> Array:
        return blocks.block(self, x, conv1, weights, norm=norm, residual=residual, halo=halo, split=split)

    def down_block(self, x: Array, conv1: Conv, weights: mlp.MLPWeights, res_conv: Conv | None, *, norm: str) -> Array:
        return blocks.down_block(self, x, conv1, weights, res_conv, norm=norm)

    def up_block(
        self, x: Array, conv1: Conv, weights: mlp.MLPWeights, res_conv: Conv | None, skip: Array, *, norm: str
    ) -> Array:
        return blocks.up_block(self, x, conv1, weights, res_conv, skip, norm=norm)

    def depthwise_conv(self, x: Array, kernel: Array, bias: Array, halo: Halo = NO_HALO) -> Array:
        return depthwise.depthwise_conv(x, kernel, bias, halo, self._form)

    def depthwise_down(self, x: Array, kernel: Array, bias: Array, halo: Halo = NO_HALO) -> Array:
        return depthwise.depthwise_down(x, kernel, bias, halo, self._form)

    def depthwise_up(self, x: Array, kernel: Array, bias: Array, halo: Halo = NO_HALO) -> Array:
        return depthwise.depthwise_up(x, kernel, bias, halo, self._form)

    def pointwise(self, x: Array, kernel: Array, bias: Array, *, dtype: jnp.dtype | None = None) -> Array:
        return pointwise.pointwise(x, kernel, bias, dtype=dtype)

    def pointwise_down(self, x: Array, kernel: Array, bias: Array) -> Array:
        return pointwise.pointwise_down(x, kernel, bias)

    def pointwise_up(self, x: Array, kernel: Array, bias: Array) -> Array:
        return pointwise.pointwise_up(x, kernel, bias)

    def norm_mlp(
        self,
        u: Array,
        weights: mlp.MLPWeights,
        *,
        norm: str,
        residual: Array | None,
        front_void: bool = False,
        split: Split = WHOLE,
    ) -> Array:
        return mlp.norm_mlp(
            u,
            weights,
            norm=norm,
            residual=residual,
            front_void=front_void,
            in_chunks=self._form == "blocks",
            split=split,
        )
