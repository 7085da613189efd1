"""MedNeXt's three blocks on channels-first arrays with hand-written gradients: two passes over memory each.

Kept for backward: the block's input, the convolution's output and a few numbers per channel. The wide hidden layer is
computed anew inside the kernels.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name

from mednext_jax.kernels import convolve, norm_mlp, norms
from mednext_jax.ops.local import Conv
from mednext_jax.ops.mlp import MLPWeights
from mednext_jax.ops.split import WHOLE, Split, halo_of


def _named(u: Array, norm: norms.Norm) -> tuple[Array, norms.Norm]:
    # What remat "dw" keeps; without the norm's numbers it would run the convolution again for them.
    return checkpoint_name(u, "dw"), norms.Norm(*(checkpoint_name(x, "dw") for x in norm))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def block(x: Array, conv1: Conv, weights: MLPWeights, residual: bool, split: Split) -> Array:
    """The block at one resolution, as `LocalOps.block`: (n, c, d, h, w) -> the same.

    x holds k // 2 more voxels on both sides along the axes of `split`.
    """
    return _block_forward(x, conv1, weights, residual, split)[0]


def _block_forward(x: Array, conv1: Conv, weights: MLPWeights, residual: bool, split: Split) -> tuple[Array, Any]:
    u, partial = convolve.conv(x, *conv1, halo_of(split))
    u, norm = _named(u, norms.fold(partial, weights.norm_scale, weights.norm_bias, split))
    beside = _inner(x, u.shape[2:]) if residual else None
    return norm_mlp.forward(u, norm, weights, beside, False), (x, u, norm, conv1, weights)


def _block_backward(residual: bool, split: Split, saved: Any, g: Array) -> tuple[Array, Conv, MLPWeights]:
    x, u, norm, (kernel, bias), weights = saved
    k, halo = kernel.shape[0], halo_of(split)
    dt, sums = norm_mlp.backward(u, norm, weights, g, False)
    gradients, slope, level = _through_norm(sums, norm, weights, u.dtype, split)
    if dt is None:
        du = norm_mlp.input_gradient(u, norm, weights, g, slope, level, False)
        dkernel = convolve.conv_kernel_gradient(x, du, k, halo)
    else:
        dkernel, du = convolve.conv_kernel_gradient_through_norm(x, dt, u, (norm.scale, slope, level), k, halo)
    dx = convolve.conv_input_gradient(du, kernel, g if residual else None, halo)
    return dx, (dkernel, jnp.zeros_like(bias)), gradients


block.defvjp(_block_forward, _block_backward)


@jax.custom_vjp
def down_block(x: Array, conv1: Conv, weights: MLPWeights, res_conv: Conv | None) -> Array:
    """The down block: (n, c, 2d, 2h, 2w) -> (n, e, d, h, w); as `LocalOps.down_block`."""
    return _down_forward(x, conv1, weights, res_conv)[0]


def _down_forward(x: Array, conv1: Conv, weights: MLPWeights, res_conv: Conv | None) -> tuple[Array, Any]:
    u, partial = convolve.down(x, *conv1)
    u, norm = _named(u, norms.fold(partial, weights.norm_scale, weights.norm_bias, WHOLE))
    beside, project, res_bias = (None, None, None) if res_conv is None else (x, *res_conv)
    y = norm_mlp.forward(u, norm, weights, beside, False, project=project, bias=res_bias)
    return y, (x, u, norm, conv1, weights, res_conv)


def _down_backward(saved: Any, g: Array) -> tuple[Array, Conv, MLPWeights, Conv | None]:
    x, u, norm, (kernel, bias), weights, res_conv = saved
    du, gradients = _mlp_backward(u, norm, weights, g, False)
    dkernel = convolve.down_kernel_gradient(x, du, kernel.shape[0])
    beside, dres = None, None
    if res_conv is not None:
        beside = _pointwise(g, res_conv[0].T).astype(x.dtype)
        dres = (_outer(x[:, :, ::2, ::2, ::2], g), gradients.compress_bias)
    dx = convolve.down_input_gradient(du, kernel, beside)
    return dx, (dkernel, jnp.zeros_like(bias)), gradients, dres


down_block.defvjp(_down_forward, _down_backward)


@jax.custom_vjp
def up_block(x: Array, conv1: Conv, weights: MLPWeights, res_conv: Conv | None, skip: Array) -> Array:
    """The up block: (n, c, d, h, w) -> (n, e, 2d, 2h, 2w), `skip` alone on front planes; as `LocalOps.up_block`."""
    return _up_forward(x, conv1, weights, res_conv, skip)[0]


def _up_forward(x: Array, conv1: Conv, weights: MLPWeights, res_conv: Conv | None, skip: Array) -> tuple[Array, Any]:
    u, partial = convolve.up(x, *conv1)
    u, norm = _named(u, norms.fold(partial, weights.norm_scale, weights.norm_bias, WHOLE))
    beside, res_bias = None, None
    if res_conv is not None:
        beside, res_bias = _pointwise(x, res_conv[0]).astype(x.dtype), res_conv[1]
    y = norm_mlp.forward(u, norm, weights, beside, True, skip, bias=res_bias)
    return y, (x, u, norm, conv1, weights, res_conv)


def _up_backward(saved: Any, g: Array) -> tuple[Array, Conv, MLPWeights, Conv | None, Array]:
    x, u, norm, (kernel, bias), weights, res_conv = saved
    du, gradients = _mlp_backward(u, norm, weights, g, True)
    dx = convolve.up_input_gradient(du, kernel)
    dkernel = convolve.up_kernel_gradient(x, du, kernel.shape[0])
    dres = None
    if res_conv is not None:
        odd = g[:, :, 1::2, 1::2, 1::2]
        dx = (dx + _pointwise(odd, res_conv[0].T)).astype(x.dtype)
        dres = (_outer(x, odd), gradients.compress_bias)
    return dx, (dkernel, jnp.zeros_like(bias)), gradients, dres, g


up_block.defvjp(_up_forward, _up_backward)


def _mlp_backward(
    u: Array, norm: norms.Norm, weights: MLPWeights, g: Array, upsampled: bool
) -> tuple[Array, MLPWeights]:
    """The gradient du at the convolution's output, and those of `weights`."""
    dt, sums = norm_mlp.backward(u, norm, weights, g, upsampled)
    gradients, slope, level = _through_norm(sums, norm, weights, u.dtype, WHOLE)
    if dt is None:
        return norm_mlp.input_gradient(u, norm, weights, g, slope, level, upsampled), gradients
    return norm_mlp.through_norm(dt, u, norm, slope, level, upsampled), gradients


def _through_norm(
    sums: norms.Sums, norm: norms.Norm, weights: MLPWeights, dtype: jnp.dtype, split: Split
) -> tuple[MLPWeights, Array, Array]:
    expand = weights.expand_kernel.astype(dtype).astype(jnp.float32)  # as the kernels multiply by it
    gradients = norms.backward(sums, norm, expand, split)
    return (
        MLPWeights(
            norm_scale=gradients.norm_scale,
            norm_bias=gradients.norm_bias,
            expand_kernel=gradients.expand_kernel,
            expand_bias=gradients.expand_bias,
            compress_kernel=sums.compress_kernel,
            compress_bias=sums.compress_bias,
        ),
        gradients.slope,
        gradients.level,
    )


def _inner(x: Array, extents: tuple[int, ...]) -> Array:
    """The inner voxels of x, which are without its halo."""
    before = [(n - m) // 2 for n, m in zip(x.shape[2:], extents, strict=True)]
    return lax.slice(x, (0, 0, *before), (*x.shape[:2], *(b + m for b, m in zip(before, extents, strict=True))))


def _pointwise(x: Array, kernel: Array) -> Array:
    """(n, c, ...), (c, e) -> (n, e, ...) float32."""
    return jnp.einsum("ce,nc...->ne...", kernel.astype(x.dtype), x, preferred_element_type=jnp.float32)


def _outer(x: Array, g: Array) -> Array:
    """(n, c, d, h, w), (n, e, d, h, w) -> (c, e) float32."""
    return jnp.einsum("ncdhw,nedhw->ce", x, g, preferred_element_type=jnp.float32)
