"""The depthwise convolutions of a block on lines of lanes as XLA computes them, with what the norm needs of them.

Each takes the lines of its volumes, so that a convolution and its gradients are one set of functions whoever computes
them: the forward pass with the norm's sums, the gradients by input and kernel from the gradient behind the norm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from mednext_jax.kernels.mosaic.instance_norm import ThroughNorm
from mednext_jax.kernels.mosaic.layout import Lines, from_lanes, inside, to_lanes
from mednext_jax.ops import depthwise
from mednext_jax.ops.split import Halo


class Volumes(NamedTuple):
    """A convolution's kind, the lines of its input and output, and along which axes the input comes with a halo."""

    step: Literal["conv", "down", "up"]
    before: Lines
    after: Lines
    halo: Halo


def forward(x: Array, kernel: Array, bias: Array, volumes: Volumes) -> tuple[Array, Array]:
    """(n, d, groups, c, lanes) -> the convolution's output, and (n, 2, c) sums of output - bias and of its square."""
    u = to_lanes(_operation(volumes)(from_lanes(x, volumes.before), kernel, bias))
    keep = kept(volumes)
    apart = jnp.where(keep, u.astype(jnp.float32) - bias[:, None], 0)
    return jnp.where(keep, u, 0).astype(u.dtype), jnp.stack([apart.sum((1, 2, 4)), jnp.square(apart).sum((1, 2, 4))], 1)


def gradients(
    x: Array,
    dt: Array,
    u: Array,
    through: ThroughNorm,
    kernel: Array,
    volumes: Volumes,
    beside: Array | None = None,
) -> tuple[Array, Array]:
    """The gradients by x (its shape), plus `beside`, and by the kernel (k, k, k, c), float32."""
    du = from_lanes(through_norm(dt, u, through, volumes), volumes.after)
    operation, nothing = _operation(volumes), jnp.zeros(kernel.shape[-1:], kernel.dtype)
    _, pull = jax.vjp(lambda x, kernel: operation(x, kernel, nothing), from_lanes(x, volumes.before), kernel)
    dx, dkernel = pull(du)
    dx = to_lanes(dx)
    return (dx if beside is None else dx + beside), dkernel


def through_norm(dt: Array, u: Array, through: ThroughNorm, volumes: Volumes) -> Array:
    """The gradient at a convolution's output from that behind its norm."""
    scale, slope, level = (x[:, None, None, :, None] for x in through)
    du = scale * dt.astype(jnp.float32) + slope * u.astype(jnp.float32) + level
    return jnp.where(kept(volumes), du, 0).astype(u.dtype)


def kept(volumes: Volumes) -> Array:
    """Which voxels of a convolution's output count, (d, groups, 1, lanes): not the padding, nor an up block's front."""
    lines = volumes.after
    keep = jnp.asarray(inside(lines))[None, :, None]
    if volumes.step != "up":
        return keep
    h, w = (
        jnp.arange(lines.groups)[:, None] * lines.rows + jnp.arange(lines.lanes) // lines.width,
        jnp.arange(lines.lanes),
    )
    inner = ((h > 0) & (w % lines.width > 0))[None, :, None]
    return keep & inner & (jnp.arange(lines.d) > 0)[:, None, None, None]


def _operation(volumes: Volumes) -> Callable[[Array, Array, Array], Array]:
    operations = {"conv": depthwise.depthwise_conv, "down": depthwise.depthwise_down, "up": depthwise.depthwise_up}
    operation = operations[volumes.step]
    return lambda x, kernel, bias: operation(x, kernel, bias, volumes.halo, "banded")
