"""The network's operations on lines of lanes: the blocks through the TPU kernels, XLA for the rest."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from mednext_jax.kernels.gpus import tell_once
from mednext_jax.kernels.mosaic import lane_blocks
from mednext_jax.kernels.mosaic.layout import LANES, Lines, from_lanes, lines_of, to_lanes
from mednext_jax.ops.block_kind import BlockKind
from mednext_jax.ops.local import Conv, LocalOps
from mednext_jax.ops.mlp import MLPWeights
from mednext_jax.ops.split import WHOLE, Split

COMPUTE_TYPE = jnp.bfloat16
_SUBLANES = 16  # of a bfloat16 tile: channels come in whole tiles
_Block = Literal["block", "down", "up"]


@functools.partial(jax.tree_util.register_dataclass, data_fields=["array"], meta_fields=["lines"])
@dataclasses.dataclass(frozen=True)
class InLanes:
    """Activations (n, d, groups, c, lanes) with the lines that say which voxel lies where."""

    array: Array
    lines: Lines

    def __add__(self, other: InLanes) -> InLanes:
        return InLanes(self.array + other.array, self.lines)


@dataclasses.dataclass(frozen=True)
class LaneOps(LocalOps):
    """`LocalOps` with activations `InLanes`, as the TPU kernels want them.

    What the kernels cannot take (`_refusal`) runs as XLA's operations, with one log line, and so does what they have
    been found not to get right (`refused`).
    """

    platform: str | None = "tpu"
    # Kinds of blocks that the kernels do not get right on this machine (`verdicts`).
    refused: frozenset[BlockKind] = frozenset()

    @property
    def described(self) -> str:
        return ", ".join(["the TPU kernels", *(f"not of {kind}" for kind in sorted(self.refused))])

    def enter(self, x: Array) -> Any:
        return _laid(x)

    def leave(self, x: Any) -> Array:
        return _last(x)

    def width(self, x: Any) -> int:
        return int(x.lines.w)

    def along(self, x: Any, axis: int, change: Callable[[Array, int], Array]) -> Any:
        lines = x.lines
        if axis == 0:
            array = change(x.array, 1)
            return InLanes(array, dataclasses.replace(lines, d=array.shape[1]))
        if axis == 1 and lines.rows == 1:
            array = change(x.array, 2)
            return InLanes(array, dataclasses.replace(lines, h=array.shape[2]))
        return _laid(change(_last(x), 1 + axis))

    def block(self, x: Any, conv1: Conv, weights: MLPWeights, *, residual: bool, split: Split = WHOLE) -> Any:
        if self._is_refused("block", x, x.lines, conv1, weights, residual):
            return _laid(self._plain.block(_last(x), conv1, weights, residual=residual, split=split))
        lines = lane_blocks.without_halo(x.lines, conv1, split)
        return InLanes(lane_blocks.block(x.array, conv1, weights, residual, x.lines, split), lines)

    def down_block(self, x: Any, conv1: Conv, weights: MLPWeights, res_conv: Conv | None) -> Any:
        if self._is_refused("down", x, x.lines, conv1, weights, res_conv is not None):
            return _laid(self._plain.down_block(_last(x), conv1, weights, res_conv))
        array = lane_blocks.down_block(x.array, conv1, weights, res_conv, x.lines)
        return InLanes(array, lane_blocks.halved(x.lines))

    def up_block(self, x: Any, conv1: Conv, weights: MLPWeights, res_conv: Conv | None, skip: Any) -> Any:
        if self._is_refused("up", x, skip.lines, conv1, weights, res_conv is not None):
            return _laid(self._plain.up_block(_last(x), conv1, weights, res_conv, _last(skip)))
        array = lane_blocks.up_block(x.array, conv1, weights, res_conv, skip.array, x.lines)
        return InLanes(array, skip.lines)

    def pointwise(self, x: Any, kernel: Array, bias: Array, *, dtype: jnp.dtype | None = None) -> Any:
        y = lane_blocks.product(kernel.T, x.array) + bias[:, None]
        return InLanes(lane_blocks.masked(y, x.lines).astype(dtype or x.array.dtype), x.lines)

    # The composed form's operations, for volumes that are split where a block changes the extents.

    def before_norm(self, x: Any, conv1: Conv, weights: MLPWeights) -> Conv:
        return self._plain.before_norm(x.array, conv1, weights)

    def depthwise_conv(self, x: Any, kernel: Array, bias: Array, split: Split = WHOLE) -> Any:
        return _laid(self._plain.depthwise_conv(_last(x), kernel, bias, split))

    def depthwise_down(self, x: Any, kernel: Array, bias: Array, split: Split = WHOLE) -> Any:
        return _laid(self._plain.depthwise_down(_last(x), kernel, bias, split))

    def depthwise_up(self, x: Any, kernel: Array, bias: Array, split: Split = WHOLE) -> Any:
        return _laid(self._plain.depthwise_up(_last(x), kernel, bias, split))

    def pointwise_down(self, x: Any, kernel: Array, bias: Array) -> Any:
        return _laid(self._plain.pointwise_down(_last(x), kernel, bias))

    def pointwise_up(self, x: Any, kernel: Array, bias: Array) -> Any:
        return _laid(self._plain.pointwise_up(_last(x), kernel, bias))

    def norm_mlp(
        self,
        u: Any,
        weights: MLPWeights,
        *,
        residual: Any,
        front_padding: bool = False,
        split: Split = WHOLE,
    ) -> Any:
        beside = None if residual is None else _last(residual)
        y = self._plain.norm_mlp(_last(u), weights, residual=beside, front_padding=front_padding, split=split)
        return _laid(y)

    @property
    def _plain(self) -> LocalOps:
        return LocalOps(self.platform)

    def _is_refused(
        self, block: _Block, x: Any, finer: Lines, conv1: Conv, weights: MLPWeights, residual: bool
    ) -> bool:
        """Whether a block runs as XLA's operations; says why, once, unless the check has said it.

        finer: the lines of its longer rows, of what goes in or what comes out.
        """
        hidden, out_channels = weights.compress_kernel.shape
        kind = BlockKind(block, x.array.shape[3], hidden, out_channels, conv1[0].shape[0], residual)
        if kind in self.refused:
            return True
        reason = _refusal(x, finer, kind, weights)
        if reason:
            tell_once(f"{kind} {reason}: it runs as XLA operations")
        return reason is not None


def takes(kind: BlockKind) -> bool:
    """Whether there are kernels for a kind of block."""
    return not any(count % _SUBLANES for count in (kind.channels, kind.hidden, kind.out_channels))


def _refusal(x: InLanes, finer: Lines, kind: BlockKind, weights: MLPWeights) -> str | None:
    """Why the kernels cannot run a block; none if they can."""
    if x.array.dtype != COMPUTE_TYPE:
        return f"of type {x.array.dtype}"
    if weights.norm != "group" or weights.grn_gamma is not None:
        return "with layer norm or global response normalisation"
    if not takes(kind):
        return f"with channels that are no multiples of {_SUBLANES}"
    if finer.lanes > LANES:
        return f"with rows of more than {LANES} voxels"
    return None


def _laid(x: Array) -> InLanes:
    return InLanes(to_lanes(x), lines_of(x))


def _last(x: InLanes) -> Array:
    return from_lanes(x.array, x.lines)
