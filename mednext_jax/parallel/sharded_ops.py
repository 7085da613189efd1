"""The network's operations on a volume split over the devices of a mesh, with the numbers of one device.

Used inside `jax.shard_map`: every operation fetches the halo that it needs once, then is the operation of one device.
"""

from __future__ import annotations

import dataclasses
import functools

import jax.numpy as jnp
from jax import Array

from mednext_jax.ops.depthwise import conv_halo, down_halo, up_halo
from mednext_jax.ops.local import Conv, LocalOps
from mednext_jax.ops.mlp import MLPWeights
from mednext_jax.ops.split import WHOLE, Split
from mednext_jax.parallel.halo import all_parts, own_part, with_halo


@dataclasses.dataclass(frozen=True)
class Layout:
    """Over which mesh axes the activations of one volume are split, level by level.

    extents: (d, h, w) of the network's input; w is never split, so it tells the level of an activation.
    names: the mesh axis that splits each of d, h and w, or None. sizes: the devices along each (1 for None).
    radius: k // 2 of the largest depthwise kernel.
    """

    extents: tuple[int, int, int]
    names: Split
    sizes: tuple[int, int, int]
    radius: int

    def split(self, level: int) -> Split:
        """The mesh axes that split a level (extents divided by 2**level); None where every device holds it whole.

        A part must hold the planes of a halo, and an even number of them so that it can be halved. What the first
        level cannot be split by, no level is.
        """
        chosen: list[str | None] = []
        for extent, name, size in zip(self.extents, self.names, self.sizes, strict=True):
            planes, rest = divmod(extent >> level, size)
            fits = rest == 0 and planes % 2 == 0 and planes >= self.radius
            chosen.append(name if fits else None)
        return chosen[0], chosen[1], chosen[2]

    def level(self, width: int) -> int:
        """The level of an activation by its extent along w."""
        return (self.extents[2] // width).bit_length() - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardedOps(LocalOps):
    """`LocalOps` on one device's part of a volume, over the operations `local` of a device.

    Deep levels whose parts would hold too few planes are gathered and computed whole on every device. Only the
    resampling operations pass from one kind of level to the other.
    """

    layout: Layout
    local: LocalOps = LocalOps()

    def loops_over(self, blocks: int) -> bool:
        return self.local.loops_over(blocks)

    def enter(self, x: Array) -> Array:
        return self.local.enter(x)

    def leave(self, x: Array) -> Array:
        return self.local.leave(x)

    def extents(self, x: Array) -> tuple[int, int, int]:
        return self.layout.extents

    # Every `split` is this layout's own for the activation, whatever a caller gives.

    def block(self, x: Array, conv1: Conv, weights: MLPWeights, *, residual: bool, split: Split = WHOLE) -> Array:
        split = self._split(x)
        x = self._with_halo(x, split, split, conv_halo(conv1[0].shape[0]))
        return self.local.block(x, conv1, weights, residual=residual, split=split)

    def down_block(self, x: Array, conv1: Conv, weights: MLPWeights, res_conv: Conv | None) -> Array:
        if self._split(x) == WHOLE:
            return self.local.down_block(x, conv1, weights, res_conv)
        return super().down_block(x, conv1, weights, res_conv)

    def up_block(self, x: Array, conv1: Conv, weights: MLPWeights, res_conv: Conv | None, skip: Array) -> Array:
        if self.layout.split(self._level(x) - 1) == WHOLE:
            return self.local.up_block(x, conv1, weights, res_conv, skip)
        return super().up_block(x, conv1, weights, res_conv, skip)

    def before_norm(self, x: Array, conv1: Conv, weights: MLPWeights) -> Conv:
        return self.local.before_norm(x, conv1, weights)

    def depthwise_conv(self, x: Array, kernel: Array, bias: Array, split: Split = WHOLE) -> Array:
        split = self._split(x)
        x = self._with_halo(x, split, split, conv_halo(kernel.shape[0]))
        return self.local.depthwise_conv(x, kernel, bias, split)

    def depthwise_down(self, x: Array, kernel: Array, bias: Array, split: Split = WHOLE) -> Array:
        split = self._split(x)
        x = self._with_halo(x, split, split, down_halo(kernel.shape[0]))
        return self._gathered(self.local.depthwise_down(x, kernel, bias, split), split)

    def depthwise_up(self, x: Array, kernel: Array, bias: Array, split: Split = WHOLE) -> Array:
        split = self.layout.split(self._level(x) - 1)
        x = self._with_halo(x, self._split(x), split, up_halo(kernel.shape[0]))
        return self.local.depthwise_up(x, kernel, bias, split)

    def pointwise(self, x: Array, kernel: Array, bias: Array, *, dtype: jnp.dtype | None = None) -> Array:
        return self.local.pointwise(x, kernel, bias, dtype=dtype)

    def pointwise_down(self, x: Array, kernel: Array, bias: Array) -> Array:
        return self._gathered(self.local.pointwise_down(x, kernel, bias), self._split(x))

    def pointwise_up(self, x: Array, kernel: Array, bias: Array) -> Array:
        split = self.layout.split(self._level(x) - 1)
        return self.local.pointwise_up(self._with_halo(x, self._split(x), split, (0, 0)), kernel, bias)

    def norm_mlp(
        self,
        u: Array,
        weights: MLPWeights,
        *,
        residual: Array | None,
        front_padding: bool = False,
        split: Split = WHOLE,
    ) -> Array:
        return self.local.norm_mlp(u, weights, residual=residual, front_padding=front_padding, split=self._split(u))

    def _level(self, x: Array) -> int:
        return self.layout.level(self.local.width(x))

    def _split(self, x: Array) -> Split:
        return self.layout.split(self._level(x))

    def _with_halo(self, x: Array, present: Split, wanted: Split, width: tuple[int, int]) -> Array:
        """A device's own part by `wanted` with a halo of `width`, of an `x` that is split by `present`."""
        # One axis after another: the second exchange carries the halo of the first, so corners come too.
        for axis, (here, name) in enumerate(zip(present, wanted, strict=True)):
            if name is not None:
                part = functools.partial(with_halo if here else own_part, name=name, before=width[0], after=width[1])
                x = self.local.along(x, axis, part)
        return x

    def _gathered(self, x: Array, present: Split) -> Array:
        """`x`, split by `present`, as its own level is split."""
        wanted = self.layout.split(self._level(x))
        for axis, (here, name) in enumerate(zip(present, wanted, strict=True)):
            if here is not None and name is None:
                x = self.local.along(x, axis, functools.partial(all_parts, name=here))
        return x
