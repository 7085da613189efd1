"""Norm, expansion, GELU, compression and residual on lines of lanes: one pass over memory each way.

Weights come from the left, W^T X, with channels in the sublanes and voxels in the lanes, so nothing is transposed; many
lines stand side by side in one product. The hidden layer lives in VMEM only, the backward pass forms it anew. GELU is
`ops.gelu.gelu_by_tanh`.
"""

from __future__ import annotations

import functools
import math
import operator
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from jax import Array, ShapeDtypeStruct, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from mednext_jax.kernels.mosaic.instance_norm import InstanceNorm
from mednext_jax.kernels.mosaic.layout import STEP_BYTES, VMEM_BYTES, Lines
from mednext_jax.ops.correlate import divisor_up_to
from mednext_jax.ops.gelu import SATURATED, TANH
from mednext_jax.ops.mlp import MLPWeights

_LINES = 64  # lines of one step of the grid, if their activations take no more than STEP_BYTES
_JOINED = 16  # lines side by side in one product, if its hidden layer has at most as many numbers as below
_HIDDEN, _HIDDEN_BACKWARD = 2**19, 2**18
_AT_ONCE = 1024  # channels of the hidden layer that the backward pass forms at once: of 4096 a v5p's VMEM is too small


class MLPSums(NamedTuple):
    """What the backward pass sums over voxels, float32; dt is the gradient at the norm's output."""

    through_norm: Array  # sums of dt and of dt (u - mean), (n, 2, c)
    expand_kernel: Array  # (c, r)
    expand_bias: Array  # (r,)
    compress_kernel: Array  # (r, e)
    compress_bias: Array  # (e,)


def forward(
    u: Array,
    norm: InstanceNorm,
    weights: MLPWeights,
    lines: Lines,
    *,
    beside: Array | None,
    skip: Array | None = None,
    front: bool = False,
) -> Array:
    """The block's second half: u (n, d, groups, c, lanes) -> (n, d, groups, e, lanes), plus what else is given.

    front (up blocks): the first plane of each axis is padding, where just `skip` comes out.
    """
    n, c = u.shape[0], u.shape[3]
    r, e = weights.compress_kernel.shape
    extra = [_flat(x) for x in (beside, skip) if x is not None]
    steps, joined = _cut(lines, (c + (1 + len(extra)) * e) * u.dtype.itemsize, r, _HIDDEN)
    kernel = functools.partial(
        _forward_kernel,
        lines=lines,
        front=front,
        has_beside=beside is not None,
        has_skip=skip is not None,
        joined=joined,
    )
    y = pl.pallas_call(
        kernel,
        grid=(n, lines.d * lines.groups // steps),
        out_shape=ShapeDtypeStruct((n, lines.d * lines.groups, e, lines.lanes), u.dtype),
        in_specs=[
            *(_some_lines(steps, c, lines), _of_sample(3, c, lines.lanes)),
            *(_whole(r, c), _whole(r, lines.lanes), _whole(e, r), _whole(e, lines.lanes)),
            *[_some_lines(steps, e, lines)] * len(extra),
        ],
        out_specs=_some_lines(steps, e, lines),
        compiler_params=_parameters("parallel"),
        cost_estimate=_cost(u, r, e, products=2, arrays=2 + len(extra)),
        name="norm_mlp",
    )(
        *(_flat(u), _in_lanes(jnp.stack([norm.mean, norm.scale, norm.shift], 1), lines)),
        *(weights.expand_kernel.T.astype(u.dtype), _in_lanes(weights.expand_bias, lines)),
        *((0.5 * weights.compress_kernel.T).astype(u.dtype), _in_lanes(weights.compress_bias, lines)),
        *extra,
    )
    return y.reshape(n, lines.d, lines.groups, e, lines.lanes)


def backward(
    u: Array,
    norm: InstanceNorm,
    weights: MLPWeights,
    g: Array,
    lines: Lines,
    *,
    front: bool = False,
) -> tuple[Array, MLPSums]:
    """The gradient dt at the norm's output, and the sums, from g (n, d, groups, e, lanes) at the block's output."""
    n, c = u.shape[0], u.shape[3]
    r, e = weights.compress_kernel.shape
    steps, joined = _cut(lines, (2 * c + e) * u.dtype.itemsize, r, _HIDDEN_BACKWARD)
    lanes = lines.lanes
    sums = [(c, r), (e, r), (r, lanes), (e, lanes), (2, c, lanes)]
    dt, dexpand, dcompress, dexpand_bias, dcompress_bias, through_norm = pl.pallas_call(
        functools.partial(_backward_kernel, lines=lines, front=front, joined=joined),
        grid=(n, lines.d * lines.groups // steps),
        out_shape=[
            ShapeDtypeStruct((n, lines.d * lines.groups, c, lanes), u.dtype),
            *(ShapeDtypeStruct((n, *shape), jnp.float32) for shape in sums),
        ],
        in_specs=[
            *(_some_lines(steps, c, lines), _some_lines(steps, e, lines), _of_sample(3, c, lanes)),
            *(_whole(r, c), _whole(r, lanes), _whole(r, e)),
        ],
        out_specs=[_some_lines(steps, c, lines), *(_of_sample(*shape) for shape in sums)],
        # Sums stay in VMEM from one step to the next, so the steps have an order; the samples have none, and a chip's
        # two cores share them.
        compiler_params=_parameters("arbitrary"),
        cost_estimate=_cost(u, r, e, products=5, arrays=3),
        name="norm_mlp_gradients",
    )(
        *(_flat(u), _flat(g), _in_lanes(jnp.stack([norm.mean, norm.scale, norm.shift], 1), lines)),
        *(weights.expand_kernel.T.astype(u.dtype), _in_lanes(weights.expand_bias, lines)),
        (0.5 * weights.compress_kernel).astype(u.dtype),
    )
    # In a loop over blocks XLA would make the kernel and the write into the blocks' stacked gradients one fusion, which
    # has the compiler's own small share of VMEM.
    dexpand, dcompress = lax.optimization_barrier((dexpand, dcompress))
    return dt.reshape(u.shape), MLPSums(
        through_norm=through_norm.sum(-1),
        expand_kernel=dexpand.sum(0),
        expand_bias=dexpand_bias.sum((0, -1)),
        compress_kernel=0.5 * dcompress.sum(0).T,
        compress_bias=dcompress_bias.sum((0, -1)),
    )


def _forward_kernel(
    *refs: Any,
    lines: Lines,
    front: bool,
    has_beside: bool,
    has_skip: bool,
    joined: int,
) -> None:
    u_ref, norm_ref, expand_ref, expand_bias_ref, compress_ref, compress_bias_ref, *extra, y_ref = refs
    mean, scale, shift = norm_ref[0, 0], norm_ref[0, 1], norm_ref[0, 2]
    expand, expand_bias, compress = expand_ref[...], expand_bias_ref[...], compress_ref[...]
    compress_bias, lanes = compress_bias_ref[...], lines.lanes
    first = pl.program_id(1) * u_ref.shape[1]

    def some(turn: Array, _: None) -> None:
        at = [turn * joined + i for i in range(joined)]
        t = jnp.concatenate(
            [((u_ref[0, i].astype(jnp.float32) - mean) * scale + shift).astype(u_ref.dtype) for i in at], 1
        )
        z = _product(expand, t)
        hidden = jnp.concatenate(
            [_twice_gelu(_part(z, i, lanes) + expand_bias).astype(u_ref.dtype) for i in range(joined)], 1
        )
        y = _product(compress, hidden)
        for i, line in enumerate(at):
            out = _part(y, i, lanes) + compress_bias
            if has_beside:
                out = out + extra[0][0, line].astype(jnp.float32)
            out = _kept(first + line, lines, front, out)
            if has_skip:
                out = out + extra[-1][0, line].astype(jnp.float32)
            y_ref[0, line] = out.astype(y_ref.dtype)

    lax.fori_loop(0, u_ref.shape[1] // joined, some, None)


def _backward_kernel(
    u_ref: Any,
    g_ref: Any,
    norm_ref: Any,
    expand_ref: Any,
    expand_bias_ref: Any,
    compress_ref: Any,
    dt_ref: Any,
    dexpand_ref: Any,
    dcompress_ref: Any,
    dexpand_bias_ref: Any,
    dcompress_bias_ref: Any,
    through_norm_ref: Any,
    *,
    lines: Lines,
    front: bool,
    joined: int,
) -> None:
    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        for ref in (dexpand_ref, dcompress_ref, dexpand_bias_ref, dcompress_bias_ref, through_norm_ref):
            ref[...] = jnp.zeros_like(ref)

    mean, scale, shift = norm_ref[0, 0], norm_ref[0, 1], norm_ref[0, 2]
    expand, expand_bias, compress = expand_ref[...], expand_bias_ref[...], compress_ref[...]
    kind, lanes = u_ref.dtype, lines.lanes
    first = pl.program_id(1) * u_ref.shape[1]
    parts = [slice(start, min(start + _AT_ONCE, len(expand))) for start in range(0, len(expand), _AT_ONCE)]

    def some(turn: Array, _: None) -> None:
        at = [turn * joined + i for i in range(joined)]
        apart = [u_ref[0, line].astype(jnp.float32) - mean for line in at]
        t = jnp.concatenate([(x * scale + shift).astype(kind) for x in apart], 1)
        rows = [_kept(first + line, lines, front, g_ref[0, line]) for line in at]
        g = jnp.concatenate(rows, 1)
        through_parts = []
        for part in parts:
            z, dhidden = _product(expand[part], t), _product(compress[part], g)
            hidden, gradients = [], []
            for i in range(joined):
                twice, slope = _twice_gelu_and_slope(_part(z, i, lanes) + expand_bias[part])
                hidden.append(twice.astype(kind))
                gradient = _part(dhidden, i, lanes) * slope
                dexpand_bias_ref[0, part] += gradient
                gradients.append(gradient.astype(kind))
            dz = jnp.concatenate(gradients, 1)
            through_parts.append(_product(expand[part], dz, (0, 0)))
            dcompress_ref[0, :, part] += _product(g, jnp.concatenate(hidden, 1), (1, 1))
            dexpand_ref[0, :, part] += _product(t, dz, (1, 1))
        dt = functools.reduce(operator.add, through_parts)
        for i, line in enumerate(at):
            of_line = _part(dt, i, lanes)
            dt_ref[0, line] = of_line.astype(kind)
            through_norm_ref[0, 0] += of_line
            through_norm_ref[0, 1] += of_line * apart[i]
            dcompress_bias_ref[0] += rows[i].astype(jnp.float32)

    lax.fori_loop(0, u_ref.shape[1] // joined, some, None)


def _twice_gelu(z: Array) -> Array:
    return z + z * _twice_normal(z, jnp.minimum(z * z, SATURATED))


def _twice_gelu_and_slope(z: Array) -> tuple[Array, Array]:
    """2 gelu(z) and its derivative."""
    q = jnp.minimum(z * z, SATURATED)
    t = _twice_normal(z, q)
    return z + z * t, 1 + t + z * (jnp.exp(-0.5 * q) * math.sqrt(2 / math.pi))


def _twice_normal(z: Array, q: Array) -> Array:
    """2 Phi(z) - 1 for q, the square of z."""
    return jnp.tanh(z * (TANH[0] + q * (TANH[1] + q * TANH[2])))


def _kept(line: Array, lines: Lines, front: bool, x: Array) -> Array:
    """`x` (c, lanes), the volume's given line, with zeros in the padding and, if `front`, on the front planes."""
    if lines.is_full and not front:
        return x
    lane = lax.broadcasted_iota(jnp.int32, (1, lines.lanes), 1)
    w = lax.rem(lane, lines.width)
    h = lax.rem(line, lines.groups) * lines.rows + lax.div(lane, lines.width)
    keep = (h < lines.h) & (w < lines.w)
    if front:
        keep = keep & (line >= lines.groups) & (h > 0) & (w > 0)
    return jnp.where(keep, x, jnp.zeros_like(x))


def _product(a: Array, b: Array, over: tuple[int, int] = (1, 0)) -> Array:
    """a b, summed over the given axis of each; float32."""
    return lax.dot_general(a, b, (((over[0],), (over[1],)), ((), ())), preferred_element_type=jnp.float32)


def _part(x: Array, i: int, lanes: int) -> Array:
    return x[:, lanes * i : lanes * (i + 1)]


def _cut(lines: Lines, voxel_bytes: int, hidden: int, most: int) -> tuple[int, int]:
    """Lines of one step of the grid, and of one product in it; voxel_bytes: what it reads and writes of a voxel."""
    twice = 2 * voxel_bytes * lines.lanes  # while a step is computed, the next one's are on their way
    steps = divisor_up_to(lines.d * lines.groups, min(_LINES, STEP_BYTES // twice))
    return steps, divisor_up_to(steps, min(_JOINED, most // (hidden * lines.lanes)))


def _flat(x: Array) -> Array:
    n, d, groups, c, lanes = x.shape
    return x.reshape(n, d * groups, c, lanes)


def _in_lanes(x: Array, lines: Lines) -> Array:
    return jnp.broadcast_to(x.astype(jnp.float32)[..., None], (*x.shape, lines.lanes))


def _some_lines(steps: int, channels: int, lines: Lines) -> pl.BlockSpec:
    return pl.BlockSpec((1, steps, channels, lines.lanes), lambda n, i: (n, i, 0, 0))


def _of_sample(*shape: int) -> pl.BlockSpec:
    return pl.BlockSpec((1, *shape), lambda n, i: (n, *[0] * len(shape)))


def _whole(*shape: int) -> pl.BlockSpec:
    return pl.BlockSpec(shape, lambda n, i: (0,) * len(shape))


def _parameters(steps: Literal["parallel", "arbitrary"]) -> pltpu.CompilerParams:
    return pltpu.CompilerParams(dimension_semantics=("parallel", steps), vmem_limit_bytes=VMEM_BYTES)


def _cost(u: Array, hidden: int, out_channels: int, products: int, arrays: int) -> pl.CostEstimate:
    c = u.shape[3]
    voxels = u.size // c
    return pl.CostEstimate(
        flops=products * voxels * hidden * (c + out_channels),
        transcendentals=voxels * hidden,
        bytes_accessed=arrays * voxels * max(c, out_channels) * u.dtype.itemsize,
    )
