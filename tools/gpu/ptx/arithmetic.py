"""Instructions that each lane executes for itself, on registers alone."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from tools.gpu.ptx.memory import Array
from tools.gpu.ptx.program import PTXError
from tools.gpu.ptx.warps import TYPES, Handler, Warps

_PAIR = "f32x2"  # two float32 in 64 bits
_MODIFIERS = {"rn", "approx", "ftz", "full"}


def from_bfloat16(bits: Array) -> Array:
    """float32 of bfloat16's bits."""
    return bits.view(ml_dtypes.bfloat16).astype(np.float32)


def to_bfloat16(value: Array) -> Array:
    """The bits of float32 rounded to bfloat16, to the nearest, ties to even."""
    return value.astype(ml_dtypes.bfloat16).view(np.uint16)


_ARITHMETIC: dict[str, Callable[..., Array]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "fma": lambda a, b, c: a * b + c,
    "div": operator.truediv,
    "neg": operator.neg,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "not": operator.invert,
    "min": np.fmin,
    "max": np.fmax,
    "tanh": np.tanh,
    "ex2": np.exp2,
    "sqrt": np.sqrt,
}

_COMPARE: dict[str, Callable[[Array, Array], Array]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}


def _simple(m: Warps, op: Any, operands: Any, active: Array | None) -> None:
    """One type, the same for all operands, or pairs of it."""
    words = [word for word in op if word not in _MODIFIERS]
    if len(words) != 2 or words[1] not in (*TYPES, _PAIR):
        raise PTXError("an operation that is not known here")
    if words[1] == _PAIR:
        values = [m.get(o, "u64")[:, None].view(np.float32) for o in operands[1:]]
    else:
        values = [m.get(o, words[1]) for o in operands[1:]]
    with np.errstate(all="ignore"):
        found = _ARITHMETIC[words[0]](*values)
    m.put(operands[0], found.view(np.uint64).ravel() if words[1] == _PAIR else found, active)


def _mov(m: Warps, op: Any, operands: Any, active: Array | None) -> None:
    to, value = operands
    kind = op[-1]
    if isinstance(value, tuple):  # pack
        half = f"b{int(kind[1:]) // len(value)}"
        packed = np.zeros(1, f"u{int(kind[1:]) // 8}")
        for i, part in enumerate(value):
            shift = packed.dtype.type(i * int(half[1:]))
            packed = packed | (m.get(part, half).astype(packed.dtype) << shift)
        m.put(to, packed, active)
    elif isinstance(to, tuple):  # unpack
        width = int(kind[1:]) // len(to)
        whole = m.get(value, f"b{kind[1:]}")
        for i, part in enumerate(to):
            if part != "_":
                m.put(part, (whole >> whole.dtype.type(i * width)).astype(f"u{width // 8}"), active)
    else:
        m.put(to, m.get(value, kind), active)


def _multiply(m: Warps, op: Any, operands: Any, active: Array | None) -> None:
    """mul and mad: of integers the low or the high half of the product, or all of it ("wide")."""
    kind, part = op[-1], op[1]
    if kind == _PAIR:
        _simple(m, op, operands, active)
        return
    a, b = (m.get(o, kind) for o in operands[1:3])
    wide = f"{kind[0]}{2 * int(kind[1:])}"
    with np.errstate(all="ignore"):
        if part == "wide":
            kind, value = wide, a.astype(TYPES[wide]) * b.astype(TYPES[wide])
        elif part == "hi" and wide in TYPES:
            whole = a.astype(TYPES[wide]) * b.astype(TYPES[wide])
            value = (whole >> whole.dtype.type(8 * a.dtype.itemsize)).astype(a.dtype)
        elif part == "lo" or kind == "f32":
            value = a * b
        else:
            raise PTXError("a product that is not known here")
        for term in operands[3:]:
            value = value + m.get(term, kind)
    m.put(operands[0], value, active)


def _shift(m: Warps, op: Any, operands: Any, active: Array | None) -> None:
    """shl and shr: by the width or more, they leave 0 or the sign."""
    value, by = m.get(operands[1], op[-1]), m.get(operands[2], "u32")
    bits = 8 * value.dtype.itemsize
    near = np.minimum(by, bits - 1).astype(value.dtype)
    moved = value << near if op[0] == "shl" else value >> near
    if value.dtype.kind != "i":
        moved = np.where(by < bits, moved, np.zeros(1, value.dtype))
    m.put(operands[0], moved, active)


def _funnel(m: Warps, op: Any, operands: Any, active: Array | None) -> None:
    """32 of the 64 bits of two registers, the lower operand first, after a shift."""
    if op[2] != "wrap":
        raise PTXError("a shift that is not known here")
    low, high, by = (m.get(o, "u32").astype(np.uint64) for o in operands[1:])
    by = by & np.uint64(31)
    whole = high << np.uint64(32) | low
    found = (whole << by) >> np.uint64(32) if op[1] == "l" else whole >> by
    m.put(operands[0], found.astype(np.uint32), active)


def _bfe(m: Warps, op: Any, operands: Any, active: Array | None) -> None:
    value, at, length = m.get(operands[1], op[-1]), int(operands[2], 0), int(operands[3], 0)
    bits = 8 * value.dtype.itemsize
    up = value.view(f"u{value.dtype.itemsize}") << value.view(f"u{value.dtype.itemsize}").dtype.type(bits - at - length)
    m.put(operands[0], up.view(value.dtype) >> value.dtype.type(bits - length), active)


def _prmt(m: Warps, op: Any, operands: Any, active: Array | None) -> None:
    a, b, selector = (m.get(o, "u32").astype(np.uint64) for o in operands[1:])
    both = a | (b << np.uint64(32))
    found = np.zeros(1, np.uint64)
    for i in range(4):
        choice = (selector >> np.uint64(4 * i)) & np.uint64(15)
        byte = (both >> ((choice & np.uint64(7)) * np.uint64(8))) & np.uint64(255)
        byte = np.where(choice > 7, np.where(byte > 127, np.uint64(255), np.uint64(0)), byte)
        found = found | (byte << np.uint64(8 * i))
    m.put(operands[0], found.astype(np.uint32), active)


def _selp(m: Warps, op: Any, operands: Any, active: Array | None) -> None:
    a, b = (m.get(o, op[-1]) for o in operands[1:3])
    m.put(operands[0], np.where(m.get(operands[3], "pred"), a, b), active)


def _setp(m: Warps, op: Any, operands: Any, active: Array | None) -> None:
    if len(op) != 3 or op[1] not in _COMPARE:
        raise PTXError("a comparison that is not known here")
    m.put(operands[0], _COMPARE[op[1]](*(m.get(o, op[-1]) for o in operands[1:])), active)


def _cvt(m: Warps, op: Any, operands: Any, active: Array | None) -> None:
    to, source = (word for word in op[1:] if word not in _MODIFIERS)
    if to == "bf16x2":
        high, low = (to_bfloat16(m.get(o, "f32")).astype(np.uint32) for o in operands[1:])
        value: Array = (high << np.uint32(16)) | low
    elif to == "bf16":
        value = to_bfloat16(m.get(operands[1], source))
    elif source == "bf16":
        value = from_bfloat16(m.get(operands[1], "b16"))
    else:
        size = m.registers[operands[1]].dtype.itemsize if operands[1] in m.registers else None
        whole = m.get(operands[1], source if size is None else f"{source[0]}{8 * size}")
        value = whole.astype(TYPES[source]).astype(TYPES[to])
    m.put(operands[0], value, active)


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(_ARITHMETIC, _simple),
    "mov": _mov,
    "mul": _multiply,
    "mad": _multiply,
    "shl": _shift,
    "shr": _shift,
    "shf": _funnel,
    "bfe": _bfe,
    "prmt": _prmt,
    "selp": _selp,
    "setp": _setp,
    "cvt": _cvt,
}
