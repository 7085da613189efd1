"""The three depthwise convolutions of MedNeXt: stride 1, stride 2 and transposed stride 2, each with its own VJP.

Kernels are (k, k, k, c), k odd, in PyTorch's orientation, biases (c,); activations (n, d, h, w, c).
With p = k // 2 and zeros outside the volume:

    depthwise_conv  y[i]               = b + sum_t x[i + t - p] w[t]
    depthwise_down  y[i]               = b + sum_t x[2i + t - p] w[t]
    depthwise_up    y[2i + 1 + t - p] += x[i] w[t],  y starting from b

A part of a volume gives the part of y that belongs to it when it comes with a halo: along the axes where `halo` is
true, x holds the `*_halo(k)` neighbouring voxels before and after, and no zeros are put there.

`form` is that of `ops.correlate`.

Plain autodiff of the fast CPU form costs ten times its forward, and of a dilated convolution gathers whole
activations under a mesh; here every gradient is again one of the two sums of `ops.correlate`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from mednext_jax.ops import banded
from mednext_jax.ops.correlate import Form, Padding, correlate, kernel_gradient
from mednext_jax.ops.split import Halo

_Saved = tuple[Array, Array, Array]
_operation = functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))


def conv_halo(k: int) -> tuple[int, int]:
    """Voxels before and after a part that `depthwise_conv` reads."""
    return k // 2, k // 2


def down_halo(k: int) -> tuple[int, int]:
    """Voxels before and after a part of even extent that `depthwise_down` reads."""
    return k // 2, k // 2 - 1


def up_halo(k: int) -> tuple[int, int]:
    """Voxels before and after a part that `depthwise_up` reads."""
    return (k // 2 + 1) // 2, k // 2 // 2


@_operation
def depthwise_conv(x: Array, kernel: Array, bias: Array, halo: Halo, form: Form) -> Array:
    """Stride 1, 'same' extents: (n, d, h, w, c) -> (n, d, h, w, c)."""
    return correlate(x, kernel, bias, 1, _zeros(conv_halo(kernel.shape[0]), halo), form)


def _conv_forward(x: Array, kernel: Array, bias: Array, halo: Halo, form: Form) -> tuple[Array, _Saved]:
    return depthwise_conv(x, kernel, bias, halo, form), (x, kernel, bias)


def _conv_backward(halo: Halo, form: Form, saved: _Saved, g: Array) -> _Saved:
    x, kernel, bias = saved
    k = kernel.shape[0]
    padding = _zeros(conv_halo(k), halo)
    dx = correlate(g, kernel[::-1, ::-1, ::-1], None, 1, tuple((k - 1 - lo, k - 1 - hi) for lo, hi in padding), form)
    dw = kernel_gradient(x, g, kernel.shape[:3], 1, padding, form)
    return dx, dw.astype(kernel.dtype), _bias_gradient(g, bias)


depthwise_conv.defvjp(_conv_forward, _conv_backward)


@_operation
def depthwise_down(x: Array, kernel: Array, bias: Array, halo: Halo, form: Form) -> Array:
    """Stride 2: (n, 2d, 2h, 2w, c) -> (n, d, h, w, c)."""
    return correlate(x, kernel, bias, 2, _zeros(down_halo(kernel.shape[0]), halo), form)


def _down_forward(x: Array, kernel: Array, bias: Array, halo: Halo, form: Form) -> tuple[Array, _Saved]:
    return depthwise_down(x, kernel, bias, halo, form), (x, kernel, bias)


def _down_backward(halo: Halo, form: Form, saved: _Saved, g: Array) -> _Saved:
    x, kernel, bias = saved
    padding = _zeros(down_halo(kernel.shape[0]), halo)
    dx = _scatter(g, kernel, jnp.zeros_like(bias), [lo for lo, _ in padding], x.shape[1:4], form)
    dw = kernel_gradient(x, g, kernel.shape[:3], 2, padding, form)
    return dx, dw.astype(kernel.dtype), _bias_gradient(g, bias)


depthwise_down.defvjp(_down_forward, _down_backward)


@_operation
def depthwise_up(x: Array, kernel: Array, bias: Array, halo: Halo, form: Form) -> Array:
    """Transposed, stride 2: (n, d, h, w, c) -> (n, 2d, 2h, 2w, c).

    Planes 1 .. 2n-1 of an axis are PyTorch's ConvTranspose3d(padding=k//2), of extent 2n-1; plane 0, where PyTorch
    pads zeros after the block, holds a partial sum that the caller masks.
    """
    origins, extents = _up_grid(x, kernel.shape[0], halo)
    return _scatter(x, kernel, bias, origins, extents, form)


def _up_forward(x: Array, kernel: Array, bias: Array, halo: Halo, form: Form) -> tuple[Array, _Saved]:
    return depthwise_up(x, kernel, bias, halo, form), (x, kernel, bias)


def _up_backward(halo: Halo, form: Form, saved: _Saved, g: Array) -> _Saved:
    x, kernel, bias = saved
    k = kernel.shape[0]
    origins, fine = _up_grid(x, k, halo)
    coarse = x.shape[1:4]
    padding = tuple((o, 2 * (m - 1) + k - n - o) for o, m, n in zip(origins, coarse, fine, strict=True))
    dw = kernel_gradient(g, x, kernel.shape[:3], 2, padding, form)
    dx = correlate(g, kernel, None, 2, padding, form)
    return dx, dw.astype(kernel.dtype), _bias_gradient(g, bias)


depthwise_up.defvjp(_up_forward, _up_backward)


def _zeros(width: tuple[int, int], halo: Halo) -> Padding:
    """Zeros of `width` (before, after) on the axes that come without a halo."""
    return tuple((0, 0) if here else width for here in halo)


def _up_grid(x: Array, k: int, halo: Halo) -> tuple[list[int], list[int]]:
    """Origin and extent, by axis, of `depthwise_up`'s fine grid against x, as `_scatter` takes them."""
    before, after = up_halo(k)
    origins = [k // 2 - 1 + 2 * before * here for here in halo]
    return origins, [2 * (n - (before + after) * here) for n, here in zip(x.shape[1:4], halo, strict=True)]


def _scatter(
    coarse: Array,
    kernel: Array,
    bias: Array,
    origins: Sequence[int],
    extents: Sequence[int],
    form: Form,
) -> Array:
    """fine[2i + t - origin] += coarse[i] w[t], on a fine grid of `extents`.

    By parity: fine[2m + q] only meets the taps t with t = q + origin (mod 2), so the fine grid is eight small
    stride-1 correlations, interleaved. No product with a dilation zero. (Interleaving costs a TPU more than zeros.)
    """
    if form == "banded":
        return banded.scatter_rows(coarse, kernel, bias, 2, origins, extents)
    k = kernel.shape[0]
    n, c = coarse.shape[0], coarse.shape[-1]
    halves = [(extent + 1) // 2 for extent in extents]
    taps: list[list[slice]] = []  # by axis, by parity
    pads: list[list[tuple[int, int]]] = []
    for origin, m, half in zip(origins, coarse.shape[1:4], halves, strict=True):
        taps.append([])
        pads.append([])
        for parity in (0, 1):
            shift = parity + origin
            # fine[2j + q] = sum_t coarse[j + (shift - t) / 2] w[t]: with t descending, coarse indices ascend.
            chosen = [t for t in range(k - 1, -1, -1) if (shift - t) % 2 == 0]
            before = (chosen[0] - shift) // 2
            taps[-1].append(slice(chosen[0], chosen[-1] - 1 if chosen[-1] else None, -2))
            pads[-1].append((before, half - m + len(chosen) - 1 - before))
    phases = [
        correlate(
            coarse,
            kernel[tuple(taps[axis][q] for axis, q in enumerate(parities))],
            bias,
            1,
            tuple(pads[axis][q] for axis, q in enumerate(parities)),
            form,
        )
        for parities in itertools.product((0, 1), repeat=3)
    ]
    d, h, w = halves
    fine = jnp.stack(phases, axis=4).reshape(n, d, h, w, 2, 2, 2, c)
    fine = fine.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(n, 2 * d, 2 * h, 2 * w, c)
    return fine[:, : extents[0], : extents[1], : extents[2]]


def _bias_gradient(g: Array, bias: Array) -> Array:
    return g.sum((0, 1, 2, 3), dtype=jnp.float32).astype(bias.dtype)
