"""MedNeXt's three blocks on lines of lanes with hand-written gradients.

Kept for backward: the block's input, the convolution's output and a few numbers per channel. The wide hidden layer is
computed anew inside the kernels.
"""

from __future__ import annotations

import dataclasses
import functools
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name

from mednext_jax.kernels.mosaic import depthwise, every_other, instance_norm, mlp, xla_depthwise
from mednext_jax.kernels.mosaic.instance_norm import InstanceNorm
from mednext_jax.kernels.mosaic.layout import Lines, from_lanes, inside, to_lanes
from mednext_jax.kernels.mosaic.xla_depthwise import Volumes
from mednext_jax.ops.local import Conv
from mednext_jax.ops.mlp import MLPWeights
from mednext_jax.ops.pointwise import precision_for
from mednext_jax.ops.split import WHOLE, Split, halo_of


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def block(x: Array, conv1: Conv, weights: MLPWeights, residual: bool, lines: Lines, split: Split) -> Array:
    """The block at one resolution, as `LocalOps.block`: (n, d, groups, c, lanes) -> the same, but for x's halo.

    lines: those of x, which holds k // 2 more voxels on both sides along the axes of `split`.
    """
    return _block_forward(x, conv1, weights, residual, lines, split)[0]


def _block_forward(
    x: Array, conv1: Conv, weights: MLPWeights, residual: bool, lines: Lines, split: Split
) -> tuple[Array, Any]:
    volumes = _conv_volumes(conv1, lines, split)
    u, norm = _convolved(x, conv1, weights, volumes, split)
    beside = _inner(x, volumes) if residual else None
    return mlp.forward(u, norm, weights, volumes.after, beside=beside), (x, *_named(u, norm), conv1, weights)


def _block_backward(residual: bool, lines: Lines, split: Split, saved: Any, g: Array) -> tuple[Array, Conv, MLPWeights]:
    x, u, norm, conv1, weights = saved
    volumes = _conv_volumes(conv1, lines, split)
    beside = _with_zeros(g, volumes) if residual else None
    return _gradients(x, u, norm, conv1, weights, g, beside, volumes, split)


block.defvjp(_block_forward, _block_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def down_block(x: Array, conv1: Conv, weights: MLPWeights, res_conv: Conv | None, lines: Lines) -> Array:
    """The down block, as `LocalOps.down_block`; lines: those of x."""
    return _down_forward(x, conv1, weights, res_conv, lines)[0]


def _down_forward(x: Array, conv1: Conv, weights: MLPWeights, res_conv: Conv | None, lines: Lines) -> tuple[Array, Any]:
    volumes = _down_volumes(lines)
    u, norm = _convolved(x, conv1, weights, volumes, WHOLE)
    beside = None
    if res_conv is not None:
        beside = product(res_conv[0].T, every_other.take(x, volumes.after, odd=False)).astype(x.dtype)
    y = mlp.forward(u, norm, _with_bias(weights, res_conv), volumes.after, beside=beside)
    return y, (x, *_named(u, norm), conv1, weights, res_conv)


def _down_backward(lines: Lines, saved: Any, g: Array) -> tuple[Array, Conv, MLPWeights, Conv | None]:
    x, u, norm, conv1, weights, res_conv = saved
    volumes = _down_volumes(lines)
    beside, dres = None, None
    if res_conv is not None:
        beside = every_other.put(product(res_conv[0], g).astype(x.dtype), volumes.after, odd=False)
    dx, dconv1, dweights = _gradients(x, u, norm, conv1, weights, g, beside, volumes, WHOLE)
    if res_conv is not None:
        dres = (outer(every_other.take(x, volumes.after, odd=False), g), dweights.compress_bias)
    return dx, dconv1, dweights, dres


down_block.defvjp(_down_forward, _down_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def up_block(x: Array, conv1: Conv, weights: MLPWeights, res_conv: Conv | None, skip: Array, lines: Lines) -> Array:
    """The up block, `skip` alone on front planes, as `LocalOps.up_block`; lines: those of x."""
    return _up_forward(x, conv1, weights, res_conv, skip, lines)[0]


def _up_forward(
    x: Array, conv1: Conv, weights: MLPWeights, res_conv: Conv | None, skip: Array, lines: Lines
) -> tuple[Array, Any]:
    volumes = _up_volumes(lines)
    u, norm = _convolved(x, conv1, weights, volumes, WHOLE)
    beside = None
    if res_conv is not None:
        beside = every_other.put(product(res_conv[0].T, x).astype(x.dtype), lines, odd=True)
    y = mlp.forward(u, norm, _with_bias(weights, res_conv), volumes.after, beside=beside, skip=skip, front=True)
    return y, (x, *_named(u, norm), conv1, weights, res_conv)


def _up_backward(lines: Lines, saved: Any, g: Array) -> tuple[Array, Conv, MLPWeights, Conv | None, Array]:
    x, u, norm, conv1, weights, res_conv = saved
    volumes = _up_volumes(lines)
    odd, beside, dres = None, None, None
    if res_conv is not None:
        odd = every_other.take(g, lines, odd=True)
        beside = product(res_conv[0], odd).astype(x.dtype)
    dx, dconv1, dweights = _gradients(x, u, norm, conv1, weights, g, beside, volumes, WHOLE)
    if odd is not None:
        dres = (outer(x, odd), dweights.compress_bias)
    return dx, dconv1, dweights, dres, g


up_block.defvjp(_up_forward, _up_backward)


def product(kernel: Array, x: Array) -> Array:
    """(e, c), (n, d, groups, c, lanes) -> (n, d, groups, e, lanes) float32."""
    return jnp.einsum(
        "ec,ndgcl->ndgel", kernel.astype(x.dtype), x, precision=precision_for(x), preferred_element_type=jnp.float32
    )


def outer(x: Array, g: Array) -> Array:
    """(n, d, groups, c, lanes), (n, d, groups, e, lanes) -> (c, e) float32."""
    return jnp.einsum("ndgcl,ndgel->ce", x, g, precision=precision_for(x), preferred_element_type=jnp.float32)


def masked(x: Array, lines: Lines) -> Array:
    """`x` (n, d, groups, c, lanes) with zeros in the padding."""
    return x if lines.is_full else jnp.where(jnp.asarray(inside(lines))[:, None], x, 0)


def _convolved(
    x: Array, conv1: Conv, weights: MLPWeights, volumes: Volumes, split: Split
) -> tuple[Array, InstanceNorm]:
    u, sums = _form(volumes).forward(x, *conv1, volumes)
    affine = weights.norm_scale, weights.norm_bias
    norm = instance_norm.fold(sums, conv1[1], affine, volumes.after, split, volumes.step == "up")
    return u, norm


def _named(u: Array, norm: InstanceNorm) -> tuple[Array, InstanceNorm]:
    """What remat "dw" keeps; without the norm's numbers it would run the convolution again for them.

    For the backward pass alone: of what the forward pass reads under this name, JAX makes a copy.
    """
    return checkpoint_name(u, "dw"), InstanceNorm(*(checkpoint_name(number, "dw") for number in norm))


def _gradients(
    x: Array,
    u: Array,
    norm: InstanceNorm,
    conv1: Conv,
    weights: MLPWeights,
    g: Array,
    beside: Array | None,
    volumes: Volumes,
    split: Split,
) -> tuple[Array, Conv, MLPWeights]:
    """Gradients of the block's input, plus `beside`, what the path around adds, of its convolution and its weights."""
    dt, sums = mlp.backward(u, norm, weights, g, volumes.after, front=volumes.step == "up")
    by_scale, by_bias, through = instance_norm.backward(sums.through_norm, norm, split)
    dx, dkernel = _form(volumes).gradients(x, dt, u, through, conv1[0], volumes, beside)
    dweights = MLPWeights(
        norm_scale=by_scale,
        norm_bias=by_bias,
        expand_kernel=sums.expand_kernel,
        expand_bias=sums.expand_bias,
        compress_kernel=sums.compress_kernel,
        compress_bias=sums.compress_bias,
    )
    # The norm removes the convolution's bias.
    return dx, (dkernel, jnp.zeros_like(conv1[1])), dweights


def _form(volumes: Volumes) -> ModuleType:
    """Who computes a convolution: the kernels, but XLA where its input has a halo along the lanes."""
    return xla_depthwise if volumes.halo[2] else depthwise


def without_halo(lines: Lines, conv1: Conv, split: Split) -> Lines:
    """The lines of a block's output from those of its input."""
    reach = conv1[0].shape[0] - 1
    d, h, w = (n - reach * here for n, here in zip((lines.d, lines.h, lines.w), halo_of(split), strict=True))
    return Lines(d, h, w)


def halved(lines: Lines) -> Lines:
    """The lines of a down block's output."""
    return Lines(lines.d // 2, lines.h // 2, lines.w // 2)


def _conv_volumes(conv1: Conv, lines: Lines, split: Split) -> Volumes:
    return Volumes("conv", lines, without_halo(lines, conv1, split), halo_of(split))


def _down_volumes(lines: Lines) -> Volumes:
    return Volumes("down", lines, halved(lines), halo_of(WHOLE))


def _up_volumes(lines: Lines) -> Volumes:
    return Volumes("up", lines, Lines(2 * lines.d, 2 * lines.h, 2 * lines.w), halo_of(WHOLE))


def _inner(x: Array, volumes: Volumes) -> Array:
    """The inner voxels of x, which are without its halo."""
    if volumes.before == volumes.after:
        return x
    if volumes.halo == (True, False, False):
        edge = (volumes.before.d - volumes.after.d) // 2
        return lax.slice_in_dim(x, edge, edge + volumes.after.d, axis=1)
    x = from_lanes(x, volumes.before)
    for axis, before, after in _edges(volumes):
        x = lax.slice_in_dim(x, (before - after) // 2, (before + after) // 2, axis=axis)
    return to_lanes(x)


def _with_zeros(g: Array, volumes: Volumes) -> Array:
    """`g` with zeros in place of the halo."""
    if volumes.before == volumes.after:
        return g
    edges = {axis: (before - after) // 2 for axis, before, after in _edges(volumes)}
    around = [(edges.get(axis, 0),) * 2 for axis in range(5)]
    if volumes.halo == (True, False, False):
        return jnp.pad(g, around)
    return to_lanes(jnp.pad(from_lanes(g, volumes.after), around))


def _edges(volumes: Volumes) -> list[tuple[int, int, int]]:
    """Axis, extent with halo and without, of each of d, h and w."""
    before, after = volumes.before, volumes.after
    return [(1, before.d, after.d), (2, before.h, after.h), (3, before.w, after.w)]


def _with_bias(weights: MLPWeights, res_conv: Conv | None) -> MLPWeights:
    """`weights` that add the bias of the path beside, too."""
    if res_conv is None:
        return weights
    return dataclasses.replace(weights, compress_bias=weights.compress_bias + res_conv[1])
