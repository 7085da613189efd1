"""Norm affine, expand, GELU, compress and residual on channels-first arrays, forward and backward.

Through the kernels of `mlp` where the table has tiles for the shape, else as plain products with the hidden layer in
memory: at 512 channels, and 256 in the backward pass, these are as fast.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array, ShapeDtypeStruct, lax

from mednext_jax.kernels import mlp
from mednext_jax.kernels.launch import launch
from mednext_jax.kernels.norms import Norm, Sums
from mednext_jax.kernels.tiles import mlp_tiles
from mednext_jax.ops.mlp import MLPWeights


def forward(
    u: Array, norm: Norm, weights: MLPWeights, residual: Array | None, up: bool, skip: Array | None = None
) -> Array:
    """u (n, c, d, h, w) -> (n, e, d, h, w), plus `residual` of that shape.

    `up`: u is an up block's fine grid, whose planes 0 come out as 0; `residual` is coarse (n, e, d/2, h/2, w/2) and
    lands on odd voxels; `skip` (n, e, d, h, w) is added to all.
    """
    n, c, *extents = u.shape
    r, e = weights.compress_kernel.shape
    tiles = mlp_tiles("mlp", c, e, r)
    if tiles is None:
        return _forward_in_memory(u, norm, weights, residual, up, skip)
    v = math.prod(extents)
    expand, compress = _products(weights, u.dtype)
    (out,) = launch(
        mlp.forward_kernel,
        (
            *(u, norm.scale, norm.shift, expand, weights.expand_bias, compress, weights.compress_bias),
            u if residual is None else residual,
            u if skip is None else skip,
        ),
        (ShapeDtypeStruct((n, e, *extents), u.dtype),),
        (-(-v // tiles["voxels"]), n),
        **_constants(u, weights, tiles, up),
        RESIDUAL=int(residual is not None),
        SKIP=int(skip is not None),
    )
    return out


def backward(u: Array, norm: Norm, weights: MLPWeights, g: Array, up: bool) -> tuple[Array | None, Sums]:
    """From the gradient g (n, e, d, h, w) at the output: dt (n, c, d, h, w) at the norm's output, and the sums.

    Where it pays to form the input's gradient later, from `Sums`, by `input_gradient`, dt is none.
    """
    n, c, *extents = u.shape
    r, e = weights.compress_kernel.shape
    v = math.prod(extents)
    one_pass = mlp_tiles("mlp_back", c, e, r)
    tiles = one_pass or mlp_tiles("mlp_weights", c, e, r)
    if tiles is None:
        return _backward_in_memory(u, norm, weights, g, up)
    programs = min(tiles["programs"], -(-v // tiles["voxels"]))
    expand, compress = _products(weights, u.dtype)
    inputs = (u, norm.scale, norm.shift, expand, weights.expand_bias, compress, g)
    partial = (_floats(n, programs, c, r), _floats(n, programs, r), _floats(n, programs, r, e))
    constants = _constants(u, weights, tiles, up)
    if one_pass is not None:
        dt, big_g, s, dw2, db2 = launch(
            mlp.backward_kernel,
            inputs,
            (ShapeDtypeStruct(u.shape, u.dtype), *partial, _floats(n, programs, e)),
            (programs, n),
            **constants,
        )
        return dt, Sums(big_g.sum(1), s.sum(1), dw2.sum((0, 1)), db2.sum((0, 1)))
    big_g, s, dw2 = launch(
        mlp.weight_gradients_kernel, inputs, partial, (r // tiles["hidden"], programs, n), **constants
    )
    return None, Sums(big_g.sum(1), s.sum(1), dw2.sum((0, 1)), _bias_gradient(g, up))


def input_gradient(u: Array, norm: Norm, weights: MLPWeights, g: Array, slope: Array, level: Array, up: bool) -> Array:
    """du = scale dt + slope u + level (n, c, d, h, w), with dt formed anew; 0 on the planes 0 of `up`."""
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
        **_constants(u, weights, tiles, up),
    )
    return du


def through_norm(dt: Array, u: Array, norm: Norm, slope: Array, level: Array, up: bool) -> Array:
    """The same from dt: elementwise, fused by XLA."""
    du = _channels(norm.scale) * dt.astype(jnp.float32) + _channels(slope) * u.astype(jnp.float32) + _channels(level)
    return _behind_front(du, up).astype(u.dtype)


def _forward_in_memory(
    u: Array, norm: Norm, weights: MLPWeights, residual: Array | None, up: bool, skip: Array | None
) -> Array:
    _, hidden, _ = _hidden(u, norm, weights)
    compress = weights.compress_kernel.astype(u.dtype)
    out = _product("re,nr...->ne...", compress, hidden.astype(u.dtype)) + _channels(weights.compress_bias[None])
    if residual is not None:
        out = out + (_onto_odd(residual) if up else residual)
    out = _behind_front(out, up)
    return (out if skip is None else out + skip).astype(u.dtype)


def _backward_in_memory(u: Array, norm: Norm, weights: MLPWeights, g: Array, up: bool) -> tuple[Array, Sums]:
    g = _behind_front(g, up)
    z, hidden, cdf = _hidden(u, norm, weights)
    expand, compress = _products(weights, u.dtype)
    density = jnp.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    dz = (_product("re,ne...->nr...", compress, g) * (cdf + z * density)).astype(u.dtype)
    sums = Sums(
        big_g=_product("ncdhw,nrdhw->ncr", u, dz),
        # Of the rounded dz, as big_g is: the norm's backward takes their mean's part out of each other.
        s=dz.sum((2, 3, 4), dtype=jnp.float32),
        compress_kernel=_product("nrdhw,nedhw->re", hidden.astype(u.dtype), g),
        compress_bias=_bias_gradient(g, up),
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


def _constants(u: Array, weights: MLPWeights, tiles: dict[str, int], up: bool) -> dict[str, int]:
    _, c, d, h, w = u.shape
    r, e = weights.compress_kernel.shape
    sizes = {"BV": tiles["voxels"], "BK": tiles["hidden"], "warps": tiles["warps"], "stages": tiles["stages"]}
    return {"V": d * h * w, "H": h, "W": w, "CI": c, "CO": e, "R": r, "UP": int(up), **sizes}


def _product(equation: str, a: Array, b: Array) -> Array:
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def _bias_gradient(g: Array, up: bool) -> Array:
    inner = g[:, :, 1:, 1:, 1:] if up else g
    return inner.sum((0, 2, 3, 4), dtype=jnp.float32)


def _behind_front(x: Array, up: bool) -> Array:
    """x (n, c, d, h, w) with planes 0 set to 0, where `up`."""
    if not up:
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
