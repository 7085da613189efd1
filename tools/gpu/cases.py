"""Every distinct block of a MedNeXt at one patch size: what the GPU tools compile, tune and time."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp

from mednext_jax.kernels.self_check import fused, with_gradients
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.ops.block_kind import BlockKind
from mednext_jax.ops.mlp import MLPWeights

Shape = jax.ShapeDtypeStruct
BYTES_PER_SECOND = 3.0e12  # what an H100's memory sustains
FLOPS_PER_SECOND = 989e12  # its tensor cores in bfloat16 (NVIDIA's data sheet, without sparsity)


@dataclasses.dataclass(frozen=True)
class Case:
    """One block: `kind` ("block", "down" or "up"), its level's channels and the extent of its input."""

    kind: Literal["block", "down", "up"]
    channels: int
    out_channels: int
    hidden: int
    kernel_size: int
    extents: tuple[int, int, int]
    batch: int
    count: int  # how many such blocks the network has

    @property
    def name(self) -> str:
        return f"{self.kind} {self.channels}-{self.hidden}-{self.out_channels} at {self.extents[0]}"

    @property
    def kind_of_block(self) -> BlockKind:
        """The kind of a block, whatever its extents."""
        return BlockKind(self.kind, self.channels, self.hidden, self.out_channels, self.kernel_size)

    def arguments(self, dtype: Any = jnp.bfloat16) -> tuple[Any, ...]:
        """Shapes of the block's arguments; activations channels first."""
        k, c, e, r = self.kernel_size, self.channels, self.out_channels, self.hidden
        conv1 = _floats(k, k, k, c), _floats(c)
        weights = MLPWeights(_floats(c), _floats(c), _floats(c, r), _floats(r), _floats(r, e), _floats(e))
        x = Shape((self.batch, c, *self.extents), dtype)
        if self.kind == "block":
            return x, conv1, weights
        residual = _floats(c, e), _floats(e)
        if self.kind == "down":
            return x, conv1, weights, residual
        return x, conv1, weights, residual, Shape((self.batch, e, *(2 * n for n in self.extents)), dtype)

    def forward(self, *arguments: Any) -> jax.Array:
        """The block through the kernels."""
        return fused(self.kind_of_block)(*arguments)

    @property
    def output(self) -> Any:
        """Shape of the output and of its gradient."""
        extents = (n // 2 if self.kind == "down" else 2 * n if self.kind == "up" else n for n in self.extents)
        return Shape((self.batch, self.out_channels, *extents), jnp.bfloat16)

    def forward_and_backward(self, g: jax.Array, *arguments: Any) -> Any:
        """The output and the gradients of all arguments, for the gradient g at the output."""
        return with_gradients(self.forward)(g, *arguments)

    @property
    def floor_bytes(self) -> tuple[int, int]:
        """The least memory traffic of forward and of backward: each activation read or written once a pass."""
        voxels = self.batch * self.extents[0] * self.extents[1] * self.extents[2]
        scale = {"block": (1, 1), "down": (1, 1 / 8), "up": (1, 8)}[self.kind]
        x, u = voxels * self.channels * scale[0], voxels * self.channels * scale[1]
        y = voxels * self.out_channels * scale[1]
        residual = {"block": x, "down": 0, "up": y}[self.kind]  # an up block's is the skip connection
        through = x if self.kind == "block" else 0
        # Forward: x -> u; u, residual -> y. Backward: u, g -> dt; x, dt, u -> du; du, residual's gradient -> dx.
        return int(2 * (x + u + u + residual + y)), int(2 * (u + y + u + x + u + u + u + u + through + x))

    @property
    def floor_flops(self) -> tuple[int, int]:
        """The least work of forward and of backward in the tensor cores' products, additions counted.

        A depthwise sum there is a product with a band: 16 inputs per row of taps, of which each output needs k.
        """
        voxels = self.batch * math.prod(self.extents)
        fine, coarse = voxels * (8 if self.kind == "up" else 1), voxels // (8 if self.kind == "down" else 1)
        # At stride 2 a coarse voxel meets 32 fine ones a row of taps, whichever of them is the output.
        depthwise = coarse * self.channels * self.kernel_size**2 * (16 if self.kind == "block" else 32)
        inner = fine if self.kind == "up" else coarse
        expand, compress = inner * self.channels * self.hidden, inner * self.hidden * self.out_channels
        residual = 0 if self.kind == "block" else coarse * self.channels * self.out_channels
        # Backward: both sums of the convolution's; the hidden layer anew, its gradient, and of both weights and of u.
        return (
            2 * (depthwise + expand + compress + residual),
            2 * (2 * depthwise + 3 * expand + 2 * compress + 2 * residual),
        )

    def floors(self, passes: int) -> str:
        """The least milliseconds of forward (1 pass) or forward and backward (2) on an H100, by bytes and by FLOPs."""
        by_bytes = sum(self.floor_bytes[:passes]) / BYTES_PER_SECOND
        by_flops = sum(self.floor_flops[:passes]) / FLOPS_PER_SECOND
        return f"floor {by_bytes * 1e3:.3f} ms by bytes, {by_flops * 1e3:.3f} by FLOPs"


def cases(config: MedNeXtConfig, extents: tuple[int, int, int], batch: int) -> list[Case]:
    """The distinct blocks of a network for patches of `extents` (d, h, w), with their number."""
    found: dict[Case, int] = {}
    for kind, level, times in config.blocks():
        d, h, w = (extent >> level for extent in extents)
        sizes = kind.channels, kind.out_channels, kind.hidden, kind.kernel_size
        case = Case(kind.block, *sizes, (d, h, w), batch, 0)
        found[case] = found.get(case, 0) + times
    return [dataclasses.replace(case, count=times) for case, times in found.items()]


def _floats(*shape: int) -> Shape:
    return Shape(shape, jnp.float32)
