"""Every distinct block of a MedNeXt at one patch size: what the GPU tools compile, tune and time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mednext_jax.kernels import fused_blocks
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.ops.mlp import MLPWeights
from mednext_jax.ops.split import WHOLE

Shape = jax.ShapeDtypeStruct


@dataclasses.dataclass(frozen=True)
class Case:
    """One block: `kind` ("block", "down" or "up"), its level's channels and the extent of its input."""

    kind: str
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
        if self.kind == "block":
            return fused_blocks.block(*arguments, True, WHOLE)
        return (fused_blocks.down_block if self.kind == "down" else fused_blocks.up_block)(*arguments)

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


def cases(config: MedNeXtConfig, extents: tuple[int, int, int], batch: int) -> list[Case]:
    """The distinct blocks of a network for patches of `extents` (d, h, w), with their number."""
    found: dict[Case, int] = {}
    for kind, level, times in config.blocks():
        d, h, w = (extent >> level for extent in extents)
        sizes = kind.channels, kind.out_channels, kind.hidden, kind.kernel_size
        case = Case(kind.block, *sizes, (d, h, w), batch, 0)
        found[case] = found.get(case, 0) + times
    return [dataclasses.replace(case, count=times) for case, times in found.items()]


def with_gradients(function: Callable[..., jax.Array]) -> Callable[..., Any]:
    def run(g: jax.Array, *arguments: Any) -> Any:
        y, pull = jax.vjp(function, *arguments)
        return y, pull(g)

    return run


def draw(shapes: Any, seed: int = 0) -> Any:
    """Normal values of the given shapes; those of kernels divided by the root of what a sum with them adds up."""
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    values = []
    for key, leaf in zip(keys, leaves, strict=True):
        added = 1 if leaf.ndim == 5 else math.prod(leaf.shape[:-1])
        values.append(jax.random.normal(key, leaf.shape, leaf.dtype) * added**-0.5)
    return jax.tree.unflatten(tree, values)


def _floats(*shape: int) -> Shape:
    return Shape(shape, jnp.float32)
