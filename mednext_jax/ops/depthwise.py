"""The three depthwise convolutions of MedNeXt: stride 1, stride 2 and transposed stride 2, each with its own VJP.

Kernels are (k, k, k, c), k odd, in PyTorch's orientation, biases (c,); activations (n, d, h, w, c).
With p = k // 2 and zeros outside the volume:

    depthwise_conv  y[i]               = b + sum_t x[i + t - p] w[t]
    depthwise_down  y[i]               = b + sum_t x[2i + t - p] w[t]
    depthwise_up    y[2i + 1 + t - p] += x[i] w[t],  y starting from b

Plain autodiff of the fast CPU form costs ten times its forward, and of a dilated convolution gathers whole
activations under a mesh; here every gradient is again one of the two sums of `ops.correlate`.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
from jax import Array

from mednext_jax.ops.correlate import Padding, correlate, kernel_gradient

_Saved = tuple[Array, Array, Array]


@jax.custom_vjp
def depthwise_conv(x: Array, kernel: Array, bias: Array) -> Array:
    """Stride 1, 'same' extents: (n, d, h, w, c) -> (n, d, h, w, c)."""
    return correlate(x, kernel, bias, 1, _same(kernel))


def _conv_forward(x: Array, kernel: Array, bias: Array) -> tuple[Array, _Saved]:
    return depthwise_conv(x, kernel, bias), (x, kernel, bias)


def _conv_backward(saved: _Saved, g: Array) -> _Saved:
    x, kernel, bias = saved
    dx = correlate(g, kernel[::-1, ::-1, ::-1], None, 1, _same(kernel))
    dw = kernel_gradient(x, g, kernel.shape[:3], 1, _same(kernel))
    return dx, dw.astype(kernel.dtype), _bias_gradient(g, bias)


depthwise_conv.defvjp(_conv_forward, _conv_backward)


@jax.custom_vjp
def depthwise_down(x: Array, kernel: Array, bias: Array) -> Array:
    """Stride 2: (n, 2d, 2h, 2w, c) -> (n, d, h, w, c)."""
    return correlate(x, kernel, bias, 2, _gather_padding(kernel, 0))


def _down_forward(x: Array, kernel: Array, bias: Array) -> tuple[Array, _Saved]:
    return depthwise_down(x, kernel, bias), (x, kernel, bias)


def _down_backward(saved: _Saved, g: Array) -> _Saved:
    x, kernel, bias = saved
    dw = kernel_gradient(x, g, kernel.shape[:3], 2, _gather_padding(kernel, 0))
    return _scatter(g, kernel, None, 0), dw.astype(kernel.dtype), _bias_gradient(g, bias)


depthwise_down.defvjp(_down_forward, _down_backward)


@jax.custom_vjp
def depthwise_up(x: Array, kernel: Array, bias: Array) -> Array:
    """Transposed, stride 2: (n, d, h, w, c) -> (n, 2d, 2h, 2w, c).

    Planes 1 .. 2n-1 of an axis are PyTorch's ConvTranspose3d(padding=k//2), of extent 2n-1; plane 0, where PyTorch
    pads zeros after the block, holds a partial sum that the caller masks.
    """
    return _scatter(x, kernel, bias, 1)


def _up_forward(x: Array, kernel: Array, bias: Array) -> tuple[Array, _Saved]:
    return depthwise_up(x, kernel, bias), (x, kernel, bias)


def _up_backward(saved: _Saved, g: Array) -> _Saved:
    x, kernel, bias = saved
    padding = _gather_padding(kernel, 1)
    dw = kernel_gradient(g, x, kernel.shape[:3], 2, padding)
    return correlate(g, kernel, None, 2, padding), dw.astype(kernel.dtype), _bias_gradient(g, bias)


depthwise_up.defvjp(_up_forward, _up_backward)


def _same(kernel: Array) -> Padding:
    p = kernel.shape[0] // 2
    return ((p, p),) * 3


def _gather_padding(kernel: Array, offset: int) -> Padding:
    """Zeros around the fine grid such that correlation at stride 2 reads fine[2i + offset + t - p]."""
    p = kernel.shape[0] // 2
    return ((p - offset, p - 1 + offset),) * 3


def _scatter(coarse: Array, kernel: Array, bias: Array | None, offset: int) -> Array:
    """fine[2i + offset + t - p] += coarse[i] w[t], on a grid of twice the extents.

    By parity: fine[2m + q] only meets the taps t with t = q + p - offset (mod 2), so the fine grid is eight small
    stride-1 correlations, interleaved. No product with a dilation zero, and under a mesh only halos move.
    """
    k, p = kernel.shape[0], kernel.shape[0] // 2
    n, d, h, w, c = coarse.shape
    taps, pads = [], []
    for parity in (0, 1):
        shift = parity + p - offset
        # fine[2m + q] = sum_t coarse[m + (shift - t) / 2] w[t]: with t descending, coarse indices ascend.
        chosen = [t for t in range(k - 1, -1, -1) if (shift - t) % 2 == 0]
        taps.append(slice(chosen[0], chosen[-1] - 1 if chosen[-1] else None, -2))
        pads.append((-((shift - chosen[0]) // 2), (shift - chosen[-1]) // 2))
    phases = [
        correlate(coarse, kernel[tuple(taps[q] for q in parities)], bias, 1, [pads[q] for q in parities])
        for parities in itertools.product((0, 1), repeat=3)
    ]
    fine = jnp.stack(phases, axis=4).reshape(n, d, h, w, 2, 2, 2, c)
    return fine.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(n, 2 * d, 2 * h, 2 * w, c)


def _bias_gradient(g: Array, bias: Array) -> Array:
    return g.sum((0, 1, 2, 3), dtype=jnp.float32).astype(bias.dtype)
