"""The instance norm between a block's kernels, from the few numbers per channel that they exchange."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, ShapeDtypeStruct, lax

from mednext_jax.kernels import moments
from mednext_jax.kernels.launch import launch
from mednext_jax.ops.norm import EPSILON
from mednext_jax.ops.split import Split, sum_of_parts


class Norm(NamedTuple):
    """The norm of u as t = scale u + shift, and what its backward needs; (n, c) float32 each but voxels."""

    scale: Array
    shift: Array
    mean: Array
    deviation: Array  # 1 / sqrt(variance + epsilon)
    voxels: Array  # () float32


class Sums(NamedTuple):
    """What the MLP's backward sums over voxels, float32. dz is the gradient at the hidden layer before GELU."""

    u_dz: Array  # sums of u^T dz (n, c, r)
    dz: Array  # sums of dz (n, r)
    compress_kernel: Array  # (r, e)
    compress_bias: Array  # (e,)


def fold(partial: Array, scale: Array, bias: Array, split: Split) -> Norm:
    """The norm from `partial` (n, c, programs, 3): each program's count, mean and sum of squares about that mean."""
    for name in split:
        if name:
            partial = lax.all_gather(partial, name, axis=2, tiled=True)
    n, c, programs, _ = partial.shape
    a, shift, mean, deviation, voxels = launch(
        moments.fold_kernel,
        (partial, scale, bias),
        [ShapeDtypeStruct((n, c), jnp.float32)] * 5,
        (c, n),
        C=c,
        P=programs,
        BP=1 << (programs - 1).bit_length(),
        EPSILON=EPSILON,
    )
    return Norm(a, shift, mean, deviation, voxels[0, 0])


class NormGradients(NamedTuple):
    """Gradients of the parameters, and du = scale dt + slope u + level, the norm's backward ((n, c) each)."""

    expand_kernel: Array  # (c, r)
    expand_bias: Array  # (r,)
    norm_scale: Array  # (c,)
    norm_bias: Array  # (c,)
    slope: Array
    level: Array


def backward(sums: Sums, norm: Norm, expand_kernel: Array, split: Split) -> NormGradients:
    """The norm's backward from the MLP's sums.

    From dt = dz expand^T alone follow the sums over voxels of dt and of dt u that it needs.

    Parameter gradients are this device's part of a split volume, `slope` and `level` those of the whole.
    """
    # TF32, a GPU's default for products of float32, would cost three digits.
    part_dt = jnp.matmul(sums.dz, expand_kernel.T, precision=lax.Precision.HIGHEST)  # (n, c)
    part_dtu = (sums.u_dz * expand_kernel).sum(-1)
    total_dt, total_dtu = sum_of_parts(part_dt, split), sum_of_parts(part_dtu, split)
    slope = -norm.scale * jnp.square(norm.deviation) * (total_dtu - norm.mean * total_dt) / norm.voxels
    return NormGradients(
        expand_kernel=(norm.scale[..., None] * sums.u_dz + norm.shift[..., None] * sums.dz[:, None]).sum(0),
        expand_bias=sums.dz.sum(0),
        norm_scale=((part_dtu - norm.mean * part_dt) * norm.deviation).sum(0),
        norm_bias=part_dt.sum(0),
        slope=slope,
        level=-norm.scale * total_dt / norm.voxels - slope * norm.mean,
    )
