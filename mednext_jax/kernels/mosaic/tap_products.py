"""Sums over a depthwise kernel's taps and the kernel's gradient, as products with banded matrices in VMEM.

Of one channel, the lines of many places stand under each other and meet the matrices of `taps`. A block of channels
stays for all steps, so its matrices are formed once, in VMEM, from a vector each.
"""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, ShapeDtypeStruct, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from mednext_jax.kernels.mosaic import words
from mednext_jax.kernels.mosaic.layout import VMEM_BYTES, inside
from mednext_jax.kernels.mosaic.taps import Taps
from mednext_jax.kernels.mosaic.words import SUBLANES, GridStep, each


def correlate(
    taps: Taps, kernel: Array, x: Array, bias: Array, beside: Array | None = None, front: bool = False
) -> tuple[Array, Array]:
    """The sum over `taps` of x (n, d, groups, c, lanes) plus `bias` (c,) and, in the output's shape, `beside`.

    Also the sums (n, 2, c) float32 over the output's voxels of the sum over taps and of its square, without the first
    plane of each axis if that is `front` padding.
    """
    n, c = x.shape[0], x.shape[3]
    step = GridStep.of(taps, c, x.dtype, 1 if beside is None else 2)
    target = taps.target
    masks, counted, kept = _mask_words(taps, step), _counted(step, front), _kept(taps, front=False)
    arguments = [
        (x, step.source_block()),
        (taps.profiles(kernel), _of_channels(step, taps.matrices, masks.shape[0], target.lanes)),
        (masks, _whole(masks)),
        (_in_lanes(bias, target.lanes)[:, None], _of_channels(step, 1, target.lanes)),
        (counted, None if counted is None else _whole(counted)),
        (kept, None if kept is None else _whole(kept)),
        (beside, step.target_block()),
    ]
    y, sums = pl.pallas_call(
        functools.partial(_correlate_kernel, step=step, front=front, given=[a is not None for a, _ in arguments]),
        grid=(step.blocks, n, step.steps),
        out_shape=[
            ShapeDtypeStruct(target.shape(n, c), x.dtype),
            ShapeDtypeStruct((n, 2, c, SUBLANES, target.lanes), jnp.float32),
        ],
        in_specs=[spec for a, spec in arguments if a is not None],
        out_specs=[
            step.target_block(),
            pl.BlockSpec((1, 2, step.channels, SUBLANES, target.lanes), lambda c, n, j: (n, 0, c, 0, 0)),
        ],
        scratch_shapes=[
            step.source_words(),
            step.target_words(),
            pltpu.VMEM((step.channels, taps.matrices, taps.source.lanes // step.per_word, target.lanes), jnp.uint32),
        ],
        compiler_params=_parameters(),
        cost_estimate=_cost(taps, x, n, 2),
        name="depthwise",
    )(*(a for a, _ in arguments if a is not None))
    return y, sums.sum((3, 4))


def kernel_gradient(
    taps: Taps, x: Array, g: Array, through: tuple[Array, Array] | None = None, front: bool = False
) -> tuple[Array, Array]:
    """The gradient (k, k, k, c) float32 of sum(g `correlate(taps, x)`) by the kernel, and that at the sum: g.

    through: u, in g's shape, and the three coefficients (n, 3, c): the gradient at the sum is
    coefficients[0] g + coefficients[1] u + coefficients[2], but 0 on the first plane of each axis if that is `front`
    padding.
    """
    n, c = x.shape[0], x.shape[3]
    u, affine = (None, None) if through is None else through
    step = GridStep.of(taps, c, x.dtype, 3 if through else 1)
    target = taps.target
    masks, kept = jnp.asarray(taps.masks, jnp.float32), _kept(taps, front)
    profiles = _of_channels(step, taps.matrices, masks.shape[0], target.lanes)
    arguments = [
        (x, step.source_block()),
        (g, step.target_block()),
        (u, step.target_block()),
        (
            None if affine is None else _in_lanes(affine, target.lanes),
            pl.BlockSpec((1, 3, step.channels, target.lanes), lambda c, n, j: (n, 0, c, 0)),
        ),
        (kept, None if kept is None else _whole(kept)),
        (masks, _whole(masks)),
    ]
    results = [(ShapeDtypeStruct((c, taps.matrices, masks.shape[0], target.lanes), jnp.float32), profiles)]
    if through:
        results.append((ShapeDtypeStruct(g.shape, g.dtype), step.target_block()))
    found = pl.pallas_call(
        functools.partial(_gradient_kernel, step=step, front=front, given=[a is not None for a, _ in arguments]),
        grid=(step.blocks, n, step.steps),
        out_shape=[shape for shape, _ in results],
        in_specs=[spec for a, spec in arguments if a is not None],
        out_specs=[spec for _, spec in results],
        scratch_shapes=[
            step.source_words(),
            step.target_words(),
            pltpu.VMEM((step.channels, taps.matrices, target.lanes, taps.source.lanes), jnp.float32),
        ],
        compiler_params=_parameters(),
        cost_estimate=_cost(taps, x, n, len(arguments)),
        name="depthwise_gradient",
    )(*(a for a, _ in arguments if a is not None))
    return taps.kernel_gradient(found[0]), found[1] if through else g


def _correlate_kernel(*refs: Any, step: GridStep, front: bool, given: list[bool]) -> None:
    of_arguments = iter(refs)
    arguments: list[Any] = [next(of_arguments) if here else None for here in given]
    x_ref, profiles_ref, masks_ref, bias_ref, counted_ref, kept_ref, beside_ref = arguments
    y_ref, sums_ref, source_ref, target_ref, matrices_ref = of_arguments
    taps, dtype = step.taps, step.dtype
    j = pl.program_id(2)

    first = (pl.program_id(1) == 0) & (j == 0)
    _form_matrices(profiles_ref, masks_ref, matrices_ref, step, jnp.where(first, step.channels, 0))
    _clear(source_ref, first)

    @pl.when(j == 0)
    def _() -> None:
        sums_ref[...] = jnp.zeros_like(sums_ref)

    step.take_source(x_ref, source_ref)
    if beside_ref is not None:

        def take(q: Array, h: Array) -> None:
            target_ref[q, step.at(h)] = words.to_words(beside_ref[0, q, h])

        _each_target_line(step, take)

    def some(word: Array, block: Array) -> None:
        rows = step.source_rows(source_ref, word, block)
        for phase, terms in taps.phases.items():
            extra = step.target_rows(target_ref, phase, word, block) if beside_ref is not None else None
            results = []
            for i in range(step.per_word):
                channel = step.per_word * word + i
                total = jnp.zeros((step.planes * step.lines, taps.target.lanes), jnp.float32)
                for term in terms:
                    total += _product(rows(term, i), words.from_words(matrices_ref[channel, term.matrix], dtype), 1)
                sum_over = _counted_only(total, counted_ref, step, phase, j, block, front)
                eights = sum_over.reshape(-1, SUBLANES, taps.target.lanes)
                sums_ref[0, 0, channel] += eights.sum(0)
                sums_ref[0, 1, channel] += (eights * eights).sum(0)
                total += bias_ref[channel]
                results.append(total if extra is None else total + extra[i])
            step.put_target_rows(target_ref, phase, word, block, results)

    _each_product(step, some)

    def put(q: Array, h: Array) -> None:
        line = target_ref[q, step.at(h)]
        if kept_ref is not None:
            line = line & kept_ref[h]
        y_ref[0, q, h] = words.from_words(line, dtype)

    _each_target_line(step, put)


def _gradient_kernel(*refs: Any, step: GridStep, front: bool, given: list[bool]) -> None:
    of_arguments = iter(refs)
    arguments: list[Any] = [next(of_arguments) if here else None for here in given]
    x_ref, g_ref, u_ref, affine_ref, kept_ref, masks_ref = arguments
    profiles_ref, *du_ref, source_ref, target_ref, products_ref = of_arguments
    taps = step.taps
    n, j = pl.program_id(1), pl.program_id(2)

    for ref in (source_ref, target_ref, products_ref):
        _clear(ref, (n == 0) & (j == 0))

    step.take_source(x_ref, source_ref)

    def take(q: Array, h: Array) -> None:
        value = g_ref[0, q, h]
        if u_ref is not None:
            scale, slope, level = affine_ref[0, 0], affine_ref[0, 1], affine_ref[0, 2]
            value = value.astype(jnp.float32) * scale + u_ref[0, q, h].astype(jnp.float32) * slope + level
            value = value.astype(step.dtype)
        line = words.to_words(value)
        if kept_ref is not None:
            line = line & kept_ref[h]
        d = j * step.target_planes + q
        line = jnp.where((d >= int(front)) & (d < taps.target.d), line, jnp.zeros_like(line))
        target_ref[q, step.at(h)] = line
        if du_ref:
            du_ref[0][0, q, h] = words.from_words(line, step.dtype)

    _each_target_line(step, take)

    def some(word: Array, block: Array) -> None:
        rows = step.source_rows(source_ref, word, block)
        for phase, terms in taps.phases.items():
            gradients = step.target_rows(target_ref, phase, word, block)
            for i in range(step.per_word):
                gradient, channel = gradients[i].astype(step.dtype), step.per_word * word + i
                for term in terms:
                    products_ref[channel, term.matrix] += _product(gradient, rows(term, i), 0)

    _each_product(step, some)

    last = (n == pl.num_programs(1) - 1) & (j == pl.num_programs(2) - 1)

    def channel(c: Array, _: None) -> None:
        def matrix(m: Array) -> None:
            products = products_ref[c, m]
            _sum_diagonals(products.T if taps.scatter else products, masks_ref, profiles_ref, c, m, taps.stride)

        each(taps.matrices, matrix, most=4)

    lax.fori_loop(0, jnp.where(last, step.channels, 0), channel, None)


def _clear(ref: Any, here: Array) -> None:
    """Zeros in all of `ref`, if `here`."""

    def part(i: Array, _: None) -> None:
        ref[i] = jnp.zeros_like(ref[i])

    lax.fori_loop(0, jnp.where(here, ref.shape[0], 0), part, None)


def _form_matrices(profiles_ref: Any, masks_ref: Any, matrices_ref: Any, step: GridStep, channels: Array) -> None:
    """The matrices of so many of the step's channels, (input lanes, output lanes) each, in words of rows."""
    taps, lanes = step.taps, step.taps.coarse.lanes
    rows = SUBLANES * step.per_word  # of one register
    shifts = [rows * part * taps.stride % lanes for part in range(lanes // rows)]

    def channel(c: Array, _: None) -> None:
        def form(m: Array) -> None:
            matrix = jnp.zeros((lanes // step.per_word, lanes), jnp.uint32)
            for i in range(masks_ref.shape[0]):
                profile = jnp.broadcast_to(profiles_ref[c, m, i : i + 1], (rows, lanes))
                rolled = pltpu.roll(profile, 0, 1, stride=taps.stride, stride_axis=0)
                first = words.to_words(rolled.astype(step.dtype))
                parts = [pltpu.roll(first, shift, 1) if shift else first for shift in shifts]
                matrix = matrix | jnp.concatenate(parts) & masks_ref[i]
            if not taps.scatter:
                turned = words.from_words(matrix, step.dtype).astype(jnp.float32).T
                matrix = words.to_words(turned.astype(step.dtype))
            matrices_ref[c, m] = matrix

        each(taps.matrices, form, most=8)

    lax.fori_loop(0, channels, channel, None)


def _sum_diagonals(products: Array, masks_ref: Any, profiles_ref: Any, c: Array, m: Array, stride: int) -> None:
    """The transpose of rolling a profile: `products` (coarse lanes, fine lanes)."""
    for i in range(masks_ref.shape[0]):
        masked = products * masks_ref[i]
        # Rolled back first by whole registers of rows, then by the rows in one.
        tiles = [_rolled_back(masked[r : r + SUBLANES], stride * r) for r in range(0, masked.shape[0], SUBLANES)]
        tile = functools.reduce(jnp.add, tiles)
        rows = [_rolled_back(tile[r : r + 1], stride * r) for r in range(SUBLANES)]
        profiles_ref[c, m, i : i + 1] = functools.reduce(jnp.add, rows)


def _rolled_back(x: Array, shift: int) -> Array:
    shift = -shift % x.shape[1]
    return pltpu.roll(x, shift, 1) if shift else x


def _counted_only(
    rows: Array, counted_ref: Any, step: GridStep, phase: tuple[int, int], j: Array, block: Array, front: bool
) -> Array:
    """`rows` (planes lines, lanes) with zeros where they are no voxels of the output."""
    taps = step.taps
    if counted_ref is not None:
        here = counted_ref[phase[1], pl.ds(pl.multiple_of(block * step.lines, SUBLANES), step.lines)]
        rows = jnp.concatenate(
            [jnp.where(here != 0, rows[m : m + step.lines], 0) for m in range(0, rows.shape[0], step.lines)]
        )
    first = front and phase[0] == 0
    if first or taps.target.d % step.target_planes:
        planes = []
        for m in range(step.planes):
            d = (j * step.planes + m) * taps.target_steps[0] + phase[0]
            known = (d >= int(front)) & (d < taps.target.d)
            planes.append(jnp.where(known, rows[m * step.lines : (m + 1) * step.lines], 0))
        rows = jnp.concatenate(planes)
    return rows


def _each_product(step: GridStep, body: Any) -> None:
    """`body(word, block of lines)` for all of a step."""

    def words_of(word: Array, _: None) -> None:
        lax.fori_loop(0, step.padded_lines // step.lines, lambda block, _: body(word, block), None)

    lax.fori_loop(0, step.words, words_of, None)


def _each_target_line(step: GridStep, body: Any) -> None:
    """`body(plane, line)` for all of a step's output."""

    def plane(q: Array, _: None) -> None:
        each(step.taps.target.groups, lambda h: body(q, h))

    lax.fori_loop(0, step.target_planes, plane, None)


def _mask_words(taps: Taps, step: GridStep) -> Array:
    """`taps.masks` as words of the matrices' rows."""
    bits = np.where(taps.masks, np.uint32(2 ** (32 // step.per_word) - 1), np.uint32(0)).astype(np.uint64)
    parts = [bits[:, i :: step.per_word] << (16 * i) for i in range(step.per_word)]
    return jnp.asarray(sum(parts), jnp.uint32)


def _kept(taps: Taps, front: bool) -> Array | None:
    """Words of ones where the output's lines hold voxels, (groups, 1, lanes); none where they always do."""
    target = taps.target
    if target.is_full and not front:
        return None
    return jnp.asarray(np.where(_voxels(taps, front), np.uint32(2**32 - 1), np.uint32(0)))[:, None]


def _counted(step: GridStep, front: bool) -> Array | None:
    """Which lines of each phase hold voxels that count, (phases, lines, lanes) float32; none where all do."""
    lines = step.taps.target_steps[1]
    counted = np.zeros((step.target_lines, step.taps.target.lanes), np.float32)
    counted[: step.taps.target.groups] = _voxels(step.taps, front)
    return None if counted.all() else jnp.asarray(counted.reshape(-1, lines, counted.shape[-1]).swapaxes(0, 1))


def _voxels(taps: Taps, front: bool) -> np.ndarray:
    """Which lanes of a plane of the output hold voxels, but no front padding; (groups, lanes) bool."""
    target = taps.target
    voxels = inside(target)
    if front:
        voxels[0, : target.width] = False
        voxels[:, :: target.width] = False
    return voxels


def _product(a: Array, b: Array, over: int) -> Array:
    """a b for `over` 1, a^T b for 0; float32."""
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return lax.dot_general(a, b, (((over,), (0,)), ((), ())), precision=precision, preferred_element_type=jnp.float32)


def _in_lanes(x: Array, lanes: int) -> Array:
    return jnp.broadcast_to(x.astype(jnp.float32)[..., None], (*x.shape, lanes))


def _of_channels(step: GridStep, *shape: int) -> pl.BlockSpec:
    return pl.BlockSpec((step.channels, *shape), lambda c, n, j: (c, *(0 for _ in shape)))


def _whole(x: Array) -> pl.BlockSpec:
    zeros = (0,) * x.ndim
    return pl.BlockSpec(x.shape, lambda c, n, j: zeros)


def _parameters() -> pltpu.CompilerParams:
    # What a block of channels keeps in VMEM passes from step to step; blocks know nothing of each other.
    return pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary", "arbitrary"), vmem_limit_bytes=VMEM_BYTES)


def _cost(taps: Taps, x: Array, n: int, arrays: int) -> pl.CostEstimate:
    c, lanes = x.shape[3], x.shape[4]
    lines = min(taps.coarse.d * taps.coarse.groups, taps.fine.d * taps.fine.groups)
    return pl.CostEstimate(
        flops=2 * n * c * lines * taps.matrices * lanes * lanes,
        transcendentals=0,
        bytes_accessed=arrays * x.size * x.dtype.itemsize,
    )
