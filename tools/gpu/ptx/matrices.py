"""Instructions of a whole warp: shuffles, 8 x 8 matrices in shared memory, tensor-core products."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tools.gpu.ptx.arithmetic import from_bfloat16
from tools.gpu.ptx.memory import Array
from tools.gpu.ptx.program import PTXError
from tools.gpu.ptx.warps import LANES, Handler, Warps


def _shuffle(m: Warps, op: Any, operands: Any, active: Array | None) -> None:
    value = m.by_warp(operands[1], "b32")
    lane = np.arange(LANES)
    by = m.by_warp(operands[2], "u32").astype(np.int64)
    if op[2] not in ("bfly", "idx") or operands[3] != "31":
        raise PTXError("a shuffle that is not known here")
    source = (lane ^ by) if op[2] == "bfly" else by & 31
    m.put(operands[0], np.take_along_axis(value, source, 1).ravel(), active)


def _rows(m: Warps, operand: str, count: int, taking: Array) -> Array:
    """Flat addresses (taking blocks, count, 8 rows) of the 8 x 8 matrices whose rows' addresses the lanes hold."""
    lanes = np.flatnonzero(taking)[:, None] * LANES + np.arange(8 * count)
    return m.shared_flat(operand, lanes, 16).reshape(-1, count, 8)


def _whole(m: Warps, active: Array | None) -> Array:
    """Which blocks take part in what a whole warp does together."""
    lanes = m.mask.reshape(-1, LANES)
    taking: Array = lanes[:, 0]
    if active is not None or np.any(lanes != taking[:, None]):
        raise PTXError("a part of a warp alone runs an instruction of the whole warp")
    return taking


def _spread(m: Warps, taking: Array, values: Array) -> Array:
    """(taking blocks, 32) put among all lanes."""
    if taking.all():
        return np.ascontiguousarray(values).ravel()
    found = np.zeros((len(taking), LANES), values.dtype)
    found[taking] = values
    return found.ravel()


def _matrix(m: Warps, op: Any, operands: Any, active: Array | None) -> None:
    """ldmatrix and stmatrix: lane l holds elements 2 (l % 4) and the next of row l // 4, or with .trans of a column."""
    taking = _whole(m, active)
    load = op[0] == "ldmatrix"
    registers, memory = operands if load else operands[::-1]
    rows = _rows(m, memory, len(registers), taking)
    for i, register in enumerate(registers):
        at = rows[:, i].ravel()
        if load:
            m.shared.read_by(m.warp, at, 16)
            matrix = m.shared.bytes.view(np.uint16)[at[:, None] // 2 + np.arange(8)].reshape(-1, 8, 8)
            pairs = (matrix.swapaxes(1, 2) if "trans" in op else matrix).reshape(-1, LANES, 2).astype(np.uint32)
            m.put(register, _spread(m, taking, pairs[..., 0] | (pairs[..., 1] << np.uint32(16))))
        else:
            value = m.by_warp(register, "b32")[taking]
            pairs = np.stack([value & np.uint32(0xFFFF), value >> np.uint32(16)], -1).astype(np.uint16)
            matrix = pairs.reshape(-1, 8, 8)
            matrix = matrix.swapaxes(1, 2) if "trans" in op else matrix
            m.shared.write(m.warp, at, np.ascontiguousarray(matrix).reshape(-1, 8).view(np.uint8))


def _fragment_a(m: Warps, registers: Sequence[str], taking: Array) -> Array:
    """A 16 x 16 left operand (blocks, 16, 16) float32 from four registers of a warp."""
    found = np.empty((int(taking.sum()), 2, 8, 2, 8), np.float32)  # row half, row, column half, column
    for i, register in enumerate(registers):
        found[:, i % 2, :, i // 2] = _pairs(m, register, taking)
    return found.reshape(-1, 16, 16)


def _pairs(m: Warps, register: str, taking: Array) -> Array:
    """(blocks, 8, 8) float32 of a register of two bfloat16 per lane."""
    value = m.by_warp(register, "b32")[taking]
    both = np.stack([value << np.uint32(16), value & np.uint32(0xFFFF0000)], -1)
    return both.view(np.float32).reshape(-1, 8, 8)


def _sums(m: Warps, registers: Sequence[str], taking: Array) -> Array:
    """Accumulators (blocks, 16, 8 * len / 4) float32: lane l holds rows l // 4 and + 8, columns 2 (l % 4) and + 1."""
    values = np.stack([m.by_warp(r, "f32")[taking] for r in registers], 1)
    values = values.reshape(-1, len(registers) // 4, 2, 2, 8, 4)  # blocks, column tile, row half, column, l // 4, l % 4
    return values.transpose(0, 2, 4, 1, 5, 3).reshape(-1, 16, 2 * len(registers))


def _put_sums(m: Warps, registers: Sequence[str], taking: Array, sums: Array) -> None:
    tiles = len(registers) // 4
    values = sums.reshape(-1, 2, 8, tiles, 4, 2).transpose(0, 3, 1, 5, 2, 4).reshape(-1, len(registers), LANES)
    for i, register in enumerate(registers):
        m.put(register, _spread(m, taking, values[:, i]))


def _mma(m: Warps, op: Any, operands: Any, active: Array | None) -> None:
    if op[3] != "m16n8k16" or op[-4:] != ("f32", "bf16", "bf16", "f32"):
        raise PTXError("a product that is not known here")
    taking = _whole(m, active)
    to, a, b, c = operands
    left = _fragment_a(m, a, taking)
    right = np.concatenate([_pairs(m, r, taking).swapaxes(1, 2) for r in b], 1)
    _put_sums(m, to, taking, left @ right + _sums(m, c, taking))


def _wgmma(m: Warps, op: Any, operands: Any, active: Array | None) -> None:
    if op[1] == "fence" or op[1] == "commit_group":
        return
    if op[1] == "wait_group":
        if operands[0] != "0":
            raise PTXError("a wait for some of the products")
        for flat, held in m.products:
            m.shared.read_by(m.warp, flat, 2)
            if not np.array_equal(m.shared.bytes.view(np.uint16)[flat // 2], held):
                raise PTXError("an operand in shared memory changed before its product was waited for")
        m.products = []
        return
    shape = re.match(r"m64n(\d+)k16$", op[4])
    if shape is None or op[-3:] != ("f32", "bf16", "bf16"):
        raise PTXError("a product that is not known here")
    taking = _whole(m, active)
    to, a, b, keep, negate_a, negate_b, *transposed = operands
    if (negate_a, negate_b) != ("1", "1"):
        raise PTXError("a product of a negated operand")
    if isinstance(a, tuple):
        left = _fragment_a(m, a, taking)
    else:
        left = _operand(m, a, 64, transposed[0] == "1", taking)[:, 16 * (m.warp % 4) :][:, :16]
    right = _operand(m, b, int(shape[1]), transposed[-1] == "1", taking)
    with np.errstate(invalid="ignore"):
        product = left @ right.swapaxes(1, 2)
    kept = m.by_warp(keep, "pred")[taking][:, 0]
    if kept.any():
        before = _sums(m, to, taking)
        product = np.where(kept[:, None, None], product + before, product)
    _put_sums(m, to, taking, product)


def _operand(m: Warps, descriptor: str, extent: int, other_major: bool, taking: Array) -> Array:
    """A wgmma operand in shared memory (blocks, extent, 16) float32 by its matrix descriptor.

    other_major: the extent, not the 16 that are summed over, lies contiguous.
    """
    value = m.by_warp(descriptor, "u64")[taking][:, 0].astype(np.int64)
    base = m.base.reshape(-1, LANES)[taking][:, 0]
    found = np.empty((len(value), extent, 16), np.float32)
    for one in np.unique(value):
        start, leading, stride = ((int(one) >> shift & 0x3FFF) << 4 for shift in (0, 16, 32))
        kind = int(one) >> 62 & 3
        span = {0: 16, 1: 128, 2: 64, 3: 32}[kind]  # bytes of a row of the swizzled pattern
        i, k = np.arange(extent)[:, None], np.arange(16)[None, :]
        if other_major:
            across = span // 2
            far, deep = (leading, stride) if kind else (stride, leading)
            offset = i % across * 2 + i // across * far + k % 8 * span + k // 8 * deep
        elif kind:
            offset = i % 8 * span + i // 8 * stride + k * 2
        else:
            offset = i % 8 * 16 + i // 8 * stride + k % 8 * 2 + k // 8 * leading
        address = start + offset
        address ^= (address >> 7 & (span // 16 - 1)) << 4
        if address.max() + 2 > m.shared.size:
            raise PTXError("an address outside of shared memory")
        here = value == one
        flat = base[here][:, None, None] + address
        m.shared.read_by(m.warp, flat, 2)
        held = m.shared.bytes.view(np.uint16)[flat // 2]
        m.products.append((flat, held))
        found[here] = from_bfloat16(held)
    return found


HANDLERS: dict[str, Handler] = {
    "shfl": _shuffle,
    "ldmatrix": _matrix,
    "stmatrix": _matrix,
    "mma": _mma,
    "wgmma": _wgmma,
}
