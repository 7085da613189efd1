"""Instructions that move values between registers and memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tools.gpu.ptx.memory import ABSENT, Array
from tools.gpu.ptx.program import PTXError
from tools.gpu.ptx.warps import Handler, Warps


@dataclasses.dataclass
class _Copy:
    """An asynchronous copy on its way: of each lane that made it, the group, the place and the bytes."""

    lane: Array
    group: Array
    flat: Array
    data: Array


def _size(op: Sequence[str]) -> int:
    """Bytes that a load or store moves for each of its registers."""
    size = int(op[-1][1:]) // 8
    if size < 2:  # writers and readers are known for every two bytes
        raise PTXError("an access to single bytes, which is not known here")
    return size


def _load(m: Warps, op: Any, operands: Any, active: Array | None) -> None:
    if op[1] == "param":
        number = int(operands[1].strip("[]").rsplit("_", 1)[1])
        starts = m.memory.starts
        m.put(operands[0], np.array([starts[number] if number < len(starts) else 0], np.uint64), active)
        return
    size = _size(op)
    to = operands[0] if isinstance(operands[0], tuple) else (operands[0],)
    lanes = m.running(active)
    if op[1] == "shared":
        source, at = m.shared.bytes, m.shared_flat(operands[1], lanes, size * len(to))
        m.shared.read_by(m.warp, at, size * len(to))
    else:
        source, at = m.memory.bytes, m.global_address(operands[1], lanes)
        m.memory.check(at, size * len(to), writes=False)
    words = source.view(f"u{size}")
    for i, register in enumerate(to):
        value = np.zeros(m.lanes, f"u{size}")
        value[lanes] = words[at // size + i]
        m.put(register, value, active)


def _store(m: Warps, op: Any, operands: Any, active: Array | None) -> None:
    size = _size(op)
    values = operands[1] if isinstance(operands[1], tuple) else (operands[1],)
    lanes = m.running(active)
    data = np.stack([m.wide(m.get(value, f"b{8 * size}"))[lanes] for value in values], 1)
    if op[1] == "shared":
        m.shared.write(m.warp, m.shared_flat(operands[0], lanes, size * len(values)), data.view(np.uint8))
        return
    address = m.global_address(operands[0], lanes)
    m.memory.check(address, size * len(values), writes=True)
    m.memory.claim(address, size * len(values), m.block[lanes])
    words = m.memory.bytes.view(f"u{size}")
    for i in range(len(values)):
        words[address // size + i] = data[:, i]


def _async_copy(m: Warps, op: Any, operands: Any, active: Array | None) -> None:
    if op[2] in ("commit_group", "wait_group") and active is not None:
        raise PTXError("an instruction of which a condition is not known here")
    if op[2] == "commit_group":
        m.groups = m.groups + m.mask
    elif op[2] == "wait_group":
        _arrive(m, m.groups - int(operands[0]))
    else:
        lanes = m.running(active)
        size = int(operands[2], 0)
        known = m.wide(m.get(operands[3], "u32"))[lanes] if len(operands) > 3 else np.full(len(lanes), size)
        to = m.shared_flat(operands[0], lanes, size)
        data = np.zeros((len(lanes), size), np.uint8)
        if np.any((known != 0) & (known != size)):
            raise PTXError("an asynchronous copy of part of its size")
        some = known != 0
        if some.any():
            source = m.global_address(operands[1], lanes[some])
            m.memory.check(source, size, writes=False)
            words = m.memory.bytes.view(f"u{min(size, 8)}")
            at = source[:, None] // min(size, 8) + np.arange(max(1, size // 8))
            data[some] = words[at].view(np.uint8).reshape(-1, size)
        m.shared.write(m.warp, to, np.full_like(data, ABSENT))
        m.copies.append(_Copy(lanes, m.groups[lanes], to, data))


def _fence(m: Warps, op: Any, operands: Any, active: Array | None) -> None:
    """Nothing: here every access is seen at once."""


def _arrive(m: Warps, before: Array) -> None:
    """Let the copies arrive that belong to a lane's groups numbered below `before`."""
    left = []
    for copy in m.copies:
        done = m.mask[copy.lane] & (copy.group < before[copy.lane])
        if done.any():
            m.shared.write(m.warp, copy.flat[done], copy.data[done])
        if not done.all():
            keep = ~done
            left.append(_Copy(copy.lane[keep], copy.group[keep], copy.flat[keep], copy.data[keep]))
    m.copies = left


HANDLERS: dict[str, Handler] = {"ld": _load, "st": _store, "cp": _async_copy, "fence": _fence}
