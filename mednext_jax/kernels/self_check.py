"""What the kernels compute for one kind of block on the device at hand, beside XLA's float32 on the same device.

The shape is small, because bfloat16's own error grows with the number of voxels that a gradient sums over (measured:
`tools.bfloat16_gradients`), and no extent is a multiple of a tile, so every mask is at work.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mednext_jax.errors import shown
from mednext_jax.ops.block_kind import BlockKind
from mednext_jax.ops.local import Conv, LocalOps
from mednext_jax.ops.mlp import MLPWeights
from mednext_jax.ops.split import WHOLE

# Relative L2 distance from float32 that bfloat16 is allowed.
OUTPUT_LIMIT, GRADIENT_LIMIT = 5e-3, 1e-2
BATCH = 2
# The finer grid of a block is twice this where it changes the extents.
EXTENTS = {"block": (7, 9, 12), "down": (5, 7, 12), "up": (5, 7, 12)}
_WEIGHTS = ("norm scale", "norm bias", "expansion", "expansion bias", "compression", "compression bias")
NOT_COMPARED = "depthwise bias"  # its gradient is 0 before an instance norm, XLA's is what rounding left


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How far a kind of block is from float32: its output, each gradient by name; or why it could not be run.

    No gradients: only the forward pass was checked.
    """

    output: float = math.nan
    gradients: dict[str, float] = dataclasses.field(default_factory=dict)
    failure: str | None = None

    @property
    def fault(self) -> str | None:
        """What is wrong with the kernels; none if nothing is. What is not a number is wrong."""
        if self.failure is not None:
            return self.failure
        if not self.output <= OUTPUT_LIMIT:
            return f"its output is off by {self.output:.1e} (at most {OUTPUT_LIMIT:.0e})"
        name, error = self.worst_gradient
        if self.gradients and not error <= GRADIENT_LIMIT:
            return f"its gradient of the {name} is off by {error:.1e} (at most {GRADIENT_LIMIT:.0e})"
        return None

    @property
    def worst_gradient(self) -> tuple[str, float]:
        """Name and error of the gradient that is farthest off; ("", 0) if none was checked."""
        return max(
            self.gradients.items(), key=lambda item: math.inf if math.isnan(item[1]) else item[1], default=("", 0.0)
        )


def measure(kind: BlockKind, gradients: bool = True, platform: str = "gpu", dtype: Any = jnp.bfloat16) -> Verdict:
    """Run a kind of block through the kernels of a "gpu" or "tpu", and through XLA in float32 on the same values.

    dtype: of the kernels' activations. A device's memory that is full is raised; any other failure is in the verdict.
    """
    g, x, (kernel, bias), *rest = draw(shapes(kind, dtype))
    # Where a convolution's output lies around a mean far above its deviation, its own rounding is most of what reaches
    # the norm's gradients. Only an eighth of a transposed convolution's taps meet an output.
    arguments = [x, (kernel * (8**0.5 if kind.block == "up" else 1.0), 0.3 * bias), *rest]
    found = _run(fused(kind, platform), g, arguments, gradients)
    exact_g, exact_arguments = jax.tree.map(lambda a: a.astype(jnp.float32), (g, arguments))
    expected = _run(plain(kind), exact_g, exact_arguments, gradients)
    names = gradient_names(kind)
    far = [distance(a, b) for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)]
    by_name = dict(zip(names, far[1:], strict=False))
    by_name.pop(NOT_COMPARED, None)
    return Verdict(far[0], by_name)


def _run(function: Callable[..., Array], g: Array, arguments: list[Any], gradients: bool) -> Any:
    if gradients:
        return jax.block_until_ready(jax.jit(with_gradients(function))(g, *arguments))
    return jax.block_until_ready(jax.jit(function)(*arguments))


def shapes(kind: BlockKind, dtype: Any) -> tuple[Any, ...]:
    """Shapes of the output and of the arguments of `fused(kind)`, at the check's extents; channels first."""
    k, c, e, r = kind.kernel_size, kind.channels, kind.out_channels, kind.hidden
    extents = EXTENTS[kind.block]
    fine = tuple(2 * n for n in extents)
    x = (BATCH, c, *(fine if kind.block == "down" else extents))
    y = (BATCH, e, *(fine if kind.block == "up" else extents))
    conv1 = _floats(k, k, k, c), _floats(c)
    weights = MLPWeights(_floats(c), _floats(c), _floats(c, r), _floats(r), _floats(r, e), _floats(e))
    given: tuple[Any, ...] = jax.ShapeDtypeStruct(x, dtype), conv1, weights
    if kind.block != "block":
        given = (*given, (_floats(c, e), _floats(e)) if kind.residual else None)
    output = jax.ShapeDtypeStruct(y, dtype)
    return (output, *given, *([output] if kind.block == "up" else []))


def gradient_names(kind: BlockKind) -> list[str]:
    """What each leaf of the arguments is, in their order."""
    names = ["input", "depthwise kernel", NOT_COMPARED, *_WEIGHTS]
    if kind.block != "block" and kind.residual:
        names += ["residual's kernel", "residual's bias"]
    return [*names, "skip connection"] if kind.block == "up" else names


def fused(kind: BlockKind, platform: str = "gpu") -> Callable[..., Array]:
    """The block through the kernels of a platform, activations channels first."""
    if platform == "tpu":
        from mednext_jax.kernels.mosaic.lane_ops import LaneOps

        return _over(LaneOps(), kind)
    from mednext_jax.kernels import fused_blocks

    if kind.block == "block":
        return lambda *arguments: fused_blocks.block(*arguments, kind.residual, WHOLE)
    return fused_blocks.down_block if kind.block == "down" else fused_blocks.up_block


def plain(kind: BlockKind) -> Callable[..., Array]:
    """A block as XLA's operations, in the form that a GPU's compiler is quick with."""
    return _over(LocalOps("tpu"), kind)


def _over(ops: LocalOps, kind: BlockKind) -> Callable[..., Array]:
    """A block of `ops`, activations channels first."""

    def run(
        x: Array, conv1: Conv, weights: MLPWeights, res_conv: Conv | None = None, skip: Array | None = None
    ) -> Array:
        x = ops.enter(jnp.moveaxis(x, 1, -1))
        if kind.block == "block":
            y = ops.block(x, conv1, weights, residual=kind.residual)
        elif skip is None:
            y = ops.down_block(x, conv1, weights, res_conv)
        else:
            y = ops.up_block(x, conv1, weights, res_conv, ops.enter(jnp.moveaxis(skip, 1, -1)))
        return jnp.moveaxis(ops.leave(y), -1, 1)

    return run


def with_gradients(function: Callable[..., Array]) -> Callable[..., Any]:
    """`function` as a function of its output's gradient and its arguments, which returns their gradients too."""

    def run(g: Array, *arguments: Any) -> Any:
        y, pull = jax.vjp(function, *arguments)
        return y, pull(g)

    return run


def draw(shapes: Any, seed: int = 0) -> Any:
    """Normal values of the given shapes; those of kernels divided by the root of what a sum with them adds up.

    The output's gradient is drawn too: from the output itself the norm takes away so much that the depthwise kernel's
    gradient is left with bfloat16's rounding.
    """
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    values = []
    for key, leaf in zip(keys, leaves, strict=True):
        added = 1 if leaf.ndim == 5 else math.prod(leaf.shape[:-1])
        values.append(jax.random.normal(key, leaf.shape, leaf.dtype) * added**-0.5)
    return jax.tree.unflatten(tree, values)


def distance(found: Any, expected: Any) -> float:
    """Relative L2 distance, summed in float64."""
    a, b = (np.asarray(array, np.float64) for array in (found, expected))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def said(error: Exception) -> str:
    """An error's first line, as it is shown."""
    return shown(f"{type(error).__name__}: {(str(error) or 'no message').strip().splitlines()[0]}")


def _floats(*shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.float32)
