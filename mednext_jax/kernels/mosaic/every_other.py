"""Every other voxel of a volume, taken from its lines of lanes or put onto them: the strided path beside a block.

A coarse line holds the rows of four fine ones. Which lane goes where is a matrix of 0 and 1 for each of the four, so
that lanes move as a product with them.
"""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, ShapeDtypeStruct, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from mednext_jax.kernels.mosaic.layout import Lines
from mednext_jax.ops.correlate import divisor_up_to
from mednext_jax.ops.pointwise import precision_for

_FINE = 4  # fine lines beside a coarse one
_LINES = 16  # coarse lines of one step of the grid


def take(x: Array, coarse: Lines, *, odd: bool) -> Array:
    """Voxels 0, 2, 4, .. of each axis, or 1, 3, 5, ..: (n, 2d, groups, c, lanes) -> (n, d, groups, c, lanes)."""
    n, c = x.shape[0], x.shape[3]
    steps, moves = divisor_up_to(coarse.groups, _LINES), _moves(coarse, odd)
    return pl.pallas_call(
        functools.partial(_take_kernel, fine_lines=x.shape[2]),
        grid=(n, coarse.d, coarse.groups // steps),
        out_shape=ShapeDtypeStruct(coarse.shape(n, c), x.dtype),
        in_specs=[
            pl.BlockSpec((1, 1, _FINE * steps, c, x.shape[4]), lambda n, d, i: (n, 2 * d + int(odd), i, 0, 0)),
            pl.BlockSpec(moves.shape, lambda n, d, i: (0, 0, 0)),
        ],
        out_specs=pl.BlockSpec((1, 1, steps, c, coarse.lanes), lambda n, d, i: (n, d, i, 0, 0)),
        compiler_params=_parameters(),
        cost_estimate=pl.CostEstimate(flops=0, transcendentals=0, bytes_accessed=x.nbytes),
        name="every_other",
    )(x, jnp.asarray(moves.swapaxes(1, 2), x.dtype))


def put(x: Array, coarse: Lines, *, odd: bool) -> Array:
    """The transpose of `take`, zeros between the voxels: (n, d, groups, c, lanes) -> (n, 2d, groups, c, lanes)."""
    n, c = x.shape[0], x.shape[3]
    fine = Lines(2 * coarse.d, 2 * coarse.h, 2 * coarse.w)
    steps, moves = divisor_up_to(coarse.groups, _LINES), _moves(coarse, odd)
    return pl.pallas_call(
        functools.partial(_put_kernel, odd=odd),
        grid=(n, fine.d, coarse.groups // steps),
        out_shape=ShapeDtypeStruct(fine.shape(n, c), x.dtype),
        in_specs=[
            pl.BlockSpec((1, 1, steps, c, coarse.lanes), lambda n, d, i: (n, lax.div(d, 2), i, 0, 0)),
            pl.BlockSpec(moves.shape, lambda n, d, i: (0, 0, 0)),
        ],
        out_specs=pl.BlockSpec((1, 1, _FINE * steps, c, fine.lanes), lambda n, d, i: (n, d, i, 0, 0)),
        compiler_params=_parameters(),
        cost_estimate=pl.CostEstimate(flops=0, transcendentals=0, bytes_accessed=8 * x.nbytes),
        name="onto_every_other",
    )(x, jnp.asarray(moves, x.dtype))


def _take_kernel(x_ref: Any, moves_ref: Any, y_ref: Any, *, fine_lines: int) -> None:
    first = _FINE * y_ref.shape[2] * pl.program_id(2)

    def line(i: Array, _: None) -> None:
        total = jnp.zeros(y_ref.shape[3:], jnp.float32)
        for q in range(_FINE):
            at = _FINE * i + q
            here = x_ref[0, 0, at]
            if fine_lines % _FINE:
                here = jnp.where(first + at < fine_lines, here, jnp.zeros_like(here))
            total += _product(here, moves_ref[q])
        y_ref[0, 0, i] = total.astype(y_ref.dtype)

    lax.fori_loop(0, y_ref.shape[2], line, None)


def _put_kernel(x_ref: Any, moves_ref: Any, y_ref: Any, *, odd: bool) -> None:
    has_voxels = lax.rem(pl.program_id(1), 2) == int(odd)

    @pl.when(jnp.logical_not(has_voxels))
    def _() -> None:
        y_ref[...] = jnp.zeros_like(y_ref)

    @pl.when(has_voxels)
    def _() -> None:
        def line(i: Array, _: None) -> None:
            for q in range(_FINE):
                y_ref[0, 0, _FINE * i + q] = _product(x_ref[0, 0, i], moves_ref[q]).astype(y_ref.dtype)

        lax.fori_loop(0, x_ref.shape[2], line, None)


def _product(x: Array, moves: Array) -> Array:
    return jnp.dot(x, moves, precision=precision_for(x), preferred_element_type=jnp.float32)


def _moves(coarse: Lines, odd: bool) -> np.ndarray:
    """Matrices (4, coarse lanes, fine lanes): which coarse lane is which lane of each fine line beside it."""
    fine = Lines(2 * coarse.d, 2 * coarse.h, 2 * coarse.w)
    row, w = np.divmod(np.arange(coarse.lanes), coarse.width)
    line, fine_row = np.divmod(2 * row + odd, fine.rows)
    moves = np.zeros((_FINE, coarse.lanes, fine.lanes), np.float32)
    known = w < coarse.w
    moves[line[known], np.flatnonzero(known), (fine_row * fine.width + 2 * w + odd)[known]] = 1
    return moves


def _parameters() -> pltpu.CompilerParams:
    return pltpu.CompilerParams(dimension_semantics=("parallel",) * 3)
