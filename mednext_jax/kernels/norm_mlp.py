"""Norm affine, expand, GELU, compress and residual on channels-first arrays, forward and backward.

Through the kernels of `mlp` where the table has tiles for the shape, else as plain products with the hidden layer in
memory: at 512 channels, and 256 in the backward pass, these are as fast.
"""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
from jax import Array, ShapeDtypeStruct, lax

from mednext_jax.kernels import mlp
from mednext_jax.kernels.launch import launch
from mednext_jax.kernels.norms import Norm, Sums
from mednext_jax.kernels.tile_sizes import mlp_tiles
from mednext_jax.ops.mlp import MLPWeights


def forward(
    u: Array,
    norm: Norm,
    weights: MLPWeights,
    residual: Array | None,
    upsampled: bool,
    skip: Array | None = None,
    project: Array | None = None,
    bias: Array | None = None,
) -> Array:
    """The block's second half: u (n, c, d, h, w) -> (n, e, d, h, w), plus `residual` of that shape.

    `project` (c, e): `residual` is a down block's input (n, c, 2d, 2h, 2w), and its even voxels times this are added.
    `bias` (e,) is the residual's, for every voxel but the front padding.
    `upsampled`: u is an up block's fine grid, whose front padding (the first plane of each axis) comes out as 0;
    `residual` is coarse (n, e, d/2, h/2, w/2) and lands on odd voxels; `skip` (n, e, d, h, w) is added to all.
    """
    n, c, *extents = u.shape
    r, e = weights.compress_kernel.shape
    tiles = mlp_tiles("mlp", c, e, r)
    if tiles is None:
        if residual is not None and project is not None:
            even = residual[:, :, ::2, ::2, ::2]
            residual = _product("ce,nc...->ne...", project.astype(u.dtype), even).astype(u.dtype)
        if bias is not None:
            weights = dataclasses.replace(weights, compress_bias=weights.compress_bias + bias)
        return _forward_in_memory(u, norm, weights, residual, upsampled, skip)
    v = math.prod(extents)
    expand, compress = _products(weights, u.dtype)
    (out,) = launch(
        mlp.forward_kernel,
        (
            *(u, norm.scale, norm.shift, expand, weights.expand_bias, compress, weights.compress_bias),
            u if residual is None else residual,
            weights.compress_bias if project is None else project.astype(u.dtype),
            weights.compress_bias if bias is None else bias,
            u if skip is None else skip,
        ),
        (ShapeDtypeStruct((n, e, *extents), u.dtype),),
        (-(-v // tiles["voxels"]), n),
        **_constants(u, weights, tiles, upsampled),
        RESIDUAL=int(residual is not None),
        PROJECTED=int(residual is not None and project is not None),
        BIASED=int(bias is not None),
        SKIP=int(skip is not None),
    )
    return out


def backward(u: Array, norm: Norm, weights: MLPWeights, g: Array, upsampled: bool) -> tuple[Array | None, Sums]:
    """Gradient dt (n, c, d, h, w) at the norm's output and the sums, from the gradient g (n, e, d, h, w) at the output.

    Where it pays to form the input's gradient later, from `Sums`, by `input_gradient`, dt is none.
    """
    n, c, *extents = u.shape
    r, e = weights.compress_kernel.shape
    v = math.prod(extents)
    one_pass = mlp_tiles("mlp_back", c, e, r)
    tiles = one_pass or mlp_tiles("mlp_weights", c, e, r)
    if tiles is None:
        return _backward_in_memory(u, norm, weights, g, upsampled)
    programs = min(tiles["programs"], -(-v // tiles["voxels"]))
    expand, compress = _products(weights, u.dtype)
    inputs = (u, norm.scale, norm.shift, expand, weights.expand_bias, compress, g)
    partial = (_floats(n, programs, c, r), _floats(n, programs, r), _floats(n, programs, r, e))
    constants = _constants(u, weights, tiles, upsampled)
    if one_pass is not None:
        dt, u_dz, sum_dz, dw2, db2 = launch(
            mlp.backward_kernel,
            inputs,
            (ShapeDtypeStruct(u.shape, u.dtype), *partial, _floats(n, programs, e)),
            (programs, n),
            **constants,
        )
        return dt, Sums(u_dz.sum(1), sum_dz.sum(1), dw2.sum((0, 1)), db2.sum((0, 1)))
    u_dz, sum_dz, dw2 = launch(
        mlp.weight_gradients_kernel, inputs, partial, (r // tiles["hidden"], programs, n), **constants
    )
    return None, Sums(u_dz.sum(1), sum_dz.sum(1), dw2.sum((0, 1)), _bias_gradient(g, upsampled))


def input_gradient(
    u: Array, norm: Norm, weights: MLPWeights, g: Array, slope: Array, level: Array, upsampled: bool
) -> Array:
    """Gradient du = scale dt + slope u + level (n, c, d, h, w), dt formed anew; 0 on front padding if `upsampled`."""
    n, c, *extents = u.shape
    r, e = weights.compress_kernel.shape
    tiles = mlp_tiles("mlp_input", c, e, r)
    assert tiles is not None, "the table has mlp_weights without mlp_input"
    v = math.prod(extents)
    expand, compress = _products(weights, u.dtype)
    (du,) = launch(
        mlp.input_gradient_kernel,
        (u, norm.scale, norm.shift, expand, weights.expand_bias, compress, g, slope, level),
        (ShapeDtypeStruct(u.shape, u.dtype),),
        (-(-v // tiles["voxels"]), n),
        **_constants(u, weights, tiles, upsampled),
    )
    return du


def through_norm(dt: Array, u: Array, norm: Norm, slope: Array, level: Array, upsampled: bool) -> Array:
    """Gradient du from dt: elementwise, fused by XLA."""
    du = _channels(norm.scale) * dt.astype(jnp.float32) + _channels(slope) * u.astype(jnp.float32) + _channels(level)
    return _zero_front_padding(du, upsampled).astype(u.dtype)


def _forward_in_memory(
    u: Array, norm: Norm, weights: MLPWeights, residual: Array | None, upsampled: bool, skip: Array | None
) -> Array:
    _, hidden, _ = _hidden(u, norm, weights)
    compress = weights.compress_kernel.astype(u.dtype)
    out = _product("re,nr...->ne...", compress, hidden.astype(u.dtype)) + _channels(weights.compress_bias[None])
    if residual is not None:
        out = out + (_onto_odd(residual) if upsampled else residual)
    out = _zero_front_padding(out, upsampled)
    return (out if skip is None else out + skip).astype(u.dtype)


def _backward_in_memory(u: Array, norm: Norm, weights: MLPWeights, g: Array, upsampled: bool) -> tuple[Array, Sums]:
    g = _zero_front_padding(g, upsampled)
    z, hidden, cdf = _hidden(u, norm, weights)
    expand, compress = _products(weights, u.dtype)
    density = jnp.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    dz = (_product("re,ne...->nr...", compress, g) * (cdf + z * density)).astype(u.dtype)
    sums = Sums(
        u_dz=_product("ncdhw,nrdhw->ncr", u, dz),
        # Of the rounded dz, as u_dz is: the norm's backward takes their mean's part out of each other.
        dz=dz.sum((2, 3, 4), dtype=jnp.float32),
        compress_kernel=_product("nrdhw,nedhw->re", hidden.astype(u.dtype), g),
        compress_bias=_bias_gradient(g, upsampled),
    )
    return _product("cr,nr...->nc...", expand, dz).astype(u.dtype), sums


def _hidden(u: Array, norm: Norm, weights: MLPWeights) -> tuple[Array, Array, Array]:
    """z, gelu(z) and the normal distribution's CDF at z, (n, r, d, h, w) float32."""
    t = (_channels(norm.scale) * u.astype(jnp.float32) + _channels(norm.shift)).astype(u.dtype)
    z = _product("cr,nc...->nr...", weights.expand_kernel.astype(u.dtype), t) + _channels(weights.expand_bias[None])
    cdf = 0.5 * (1 + lax.erf(z * math.sqrt(0.5)))
    return z, z * cdf, cdf


def _products(weights: MLPWeights, dtype: jnp.dtype) -> tuple[Array, Array]:
    return weights.expand_kernel.astype(dtype), weights.compress_kernel.astype(dtype)


def _constants(u: Array, weights: MLPWeights, tiles: dict[str, int], upsampled: bool) -> dict[str, int]:
    _, c, d, h, w = u.shape
    r, e = weights.compress_kernel.shape
    sizes = {"BV": tiles["voxels"], "BK": tiles["hidden"], "warps": tiles["warps"], "stages": tiles["stages"]}
    return {"V": d * h * w, "H": h, "W": w, "CI": c, "CO": e, "R": r, "UPSAMPLED": int(upsampled), **sizes}


def _product(equation: str, a: Array, b: Array) -> Array:
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def _bias_gradient(g: Array, upsampled: bool) -> Array:
    inner = g[:, :, 1:, 1:, 1:] if upsampled else g
    return inner.sum((0, 2, 3, 4), dtype=jnp.float32)


def _zero_front_padding(x: Array, upsampled: bool) -> Array:
    """x (n, c, d, h, w) with the first plane of each axis set to 0, if `upsampled`."""
    if not upsampled:
        return x
    for axis in (2, 3, 4):
        index = lax.broadcasted_iota(jnp.int32, tuple(m if a == axis else 1 for a, m in enumerate(x.shape)), axis)
        x = jnp.where(index > 0, x, 0)
    return x


def _onto_odd(coarse: Array) -> Array:
    zero = jnp.zeros((), coarse.dtype)
    return lax.pad(coarse, zero, ((0, 0, 0), (0, 0, 0), (1, 0, 1), (1, 0, 1), (1, 0, 1)))


def _channels(x: Array) -> Array:
    return x[..., None, None, None]


def _floats(*shape: int) -> ShapeDtypeStruct:
    return ShapeDtypeStruct(shape, jnp.float32)
