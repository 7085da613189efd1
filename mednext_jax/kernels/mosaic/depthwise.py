"""The depthwise convolutions of the three blocks and their gradients on lines of lanes, through the TPU kernels.

`lines` are those of x. Along the axes d and h of `halo`, x holds its neighbours' voxels, too, as in `ops.depthwise`; w
is never split. Forward results come with the sums (n, 2, c) float32 over their voxels of u - bias and of its square.
Gradients of biases are left out: the instance norm that follows makes them 0.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array

from mednext_jax.kernels.mosaic import tap_products
from mednext_jax.kernels.mosaic.instance_norm import ThroughNorm
from mednext_jax.kernels.mosaic.layout import Lines
from mednext_jax.kernels.mosaic.taps import Taps
from mednext_jax.ops.split import Halo

_NO_HALO: Halo = (False, False, False)


def conv(x: Array, kernel: Array, bias: Array, lines: Lines, halo: Halo = _NO_HALO) -> tuple[Array, Array]:
    """Convolution at stride 1 of x (n, d, groups, c, lanes), with k // 2 more voxels both ways along `halo`."""
    return tap_products.correlate(_conv_taps(kernel.shape[0], lines, halo), x, _flipped(kernel), bias)


def conv_input_gradient(
    du: Array, kernel: Array, lines: Lines, halo: Halo = _NO_HALO, beside: Array | None = None
) -> Array:
    """Gradient of `conv`'s x, plus `beside`, the one in x's shape that reaches it another way."""
    taps = _conv_taps(kernel.shape[0], lines, halo)
    # Of the two directions of a relation at stride 1, both scatter: the taps turned round.
    low = tuple(-(taps.k - 1) - low for low in taps.low)
    back = dataclasses.replace(taps, coarse=taps.fine, fine=taps.coarse, low=(low[0], low[1], low[2]))
    return tap_products.correlate(back, du, kernel, jnp.zeros(kernel.shape[-1]), beside)[0]


def conv_kernel_gradient(
    x: Array, dt: Array, k: int, lines: Lines, halo: Halo = _NO_HALO, through: tuple[Array, ThroughNorm] | None = None
) -> tuple[Array, Array]:
    """Gradient (k, k, k, c) float32 of `conv`'s kernel, and that at its output, from dt, the one at the norm's output.

    through: the convolution's output and the way through the norm; without it dt is the gradient at the output itself.
    """
    gradient, du = tap_products.kernel_gradient(_conv_taps(k, lines, halo), x, dt, _coefficients(through))
    return _flipped(gradient), du


def _conv_taps(k: int, lines: Lines, halo: Halo) -> Taps:
    p = k // 2
    d, h, _ = ((k - 1) * here for here in halo)
    low = tuple(-(k - 1) if here else -p for here in halo)  # of turned taps: output o is x's voxel and tap o + t + low
    target = Lines(lines.d - d, lines.h - h, lines.w)
    return Taps(k, 1, (low[0], low[1], low[2]), coarse=lines, fine=target, scatter=True)


def _coefficients(through: tuple[Array, ThroughNorm] | None) -> tuple[Array, Array] | None:
    return None if through is None else (through[0], jnp.stack(through[1], 1))


def _flipped(kernel: Array) -> Array:
    return kernel[::-1, ::-1, ::-1]
