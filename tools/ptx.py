"""Run a compiled kernel's PTX on NumPy arrays: what a Hopper would be told to do, where there is none.

Triton's own interpreter runs a kernel's source, in float32, one program after another. This runs the instructions that
Triton made of it: bfloat16 tensor-core fragments, swizzled shared memory, asynchronous copies, barriers. It also looks
out for what would go wrong on a GPU on some days only:

* global memory is read within an input and written within an output, aligned, and by one program only;
* shared memory that one warp wrote is read or written by another only past a barrier;
* an asynchronous copy arrives when it is waited for, and not before;
* a tensor-core product's operands in shared memory stay as they are until it is waited for.

Not modelled: the rounding of the approximate functions (tanh, exp2, division), fused multiply-add's single rounding,
the order of a tensor core's sums, ptxas, and races within a warp. Sources: PTX ISA 8.7, sections 9.7.14 (mma, ldmatrix)
and 9.7.15 (wgmma: fragments, matrix descriptors, canonical layouts).
"""

from __future__ import annotations

import dataclasses
import math
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_LANES = 32
_BITS = {"pred": np.bool_, "b16": np.uint16, "b32": np.uint32, "b64": np.uint64}
_TYPES: dict[str, Any] = {
    **{f"b{n}": f"u{n // 8}" for n in (16, 32, 64)},
    **{f"u{n}": f"u{n // 8}" for n in (8, 16, 32, 64)},
    **{f"s{n}": f"i{n // 8}" for n in (8, 16, 32, 64)},
    "f32": "f4",
    "pred": "?",
}
_MODIFIERS = {"rn", "rz", "approx", "ftz", "full", "lo", "sync", "uni", "sat"}
_WAIT = 0xFF  # what memory holds until an asynchronous copy has arrived; not a number in bfloat16 and float32


class PTXError(RuntimeError):
    """The PTX does what no kernel may do, or what this module does not know."""


@dataclasses.dataclass(frozen=True)
class Instruction:
    text: str
    guard: tuple[str, bool] | None  # register, and whether it must be true
    op: tuple[str, ...]  # the words between the dots
    operands: tuple[Any, ...]  # text, or a tuple of texts for {...}


@dataclasses.dataclass(frozen=True)
class Program:
    """A parsed kernel: its instructions, where its labels point, and the number of threads of a block."""

    instructions: tuple[Instruction, ...]
    labels: dict[str, int]
    threads: int


def parse(ptx: str) -> Program:
    """The one kernel of a PTX module as Triton writes it."""
    body = re.search(r"\.reqntid (\d+)[^{]*\n\{\n(.*?)\n\}\n", ptx + "\n", re.DOTALL)
    if body is None:
        raise PTXError("no kernel in this PTX")
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in re.sub(r"//[^\n]*", "", body[2]).split("\n"):
        text = line.strip().rstrip(";").strip()
        label = re.match(r"(\$\w+):$", text)
        if label:
            labels[label[1]] = len(instructions)
        elif text and not text.startswith((".", "{", "}")):
            instructions.append(_instruction(text))
    return Program(tuple(instructions), labels, int(body[1]))


def _instruction(text: str) -> Instruction:
    match = re.match(r"(?:@(!?)(%\w+)\s+)?([\w.:]+)\s*(.*)$", text)
    if match is None:
        raise PTXError(f"not an instruction: {text}")
    operands = [
        tuple(re.split(r"\s*,\s*", part.strip("{} "))) if part.startswith("{") else part.strip()
        for part in re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*", match[4])
    ]
    guard = (match[2], not match[1]) if match[2] else None
    return Instruction(text, guard, tuple(match[3].split(".")), tuple(operands))


def run(ptx: str, grid: Sequence[int], inputs: Sequence[Array], outputs: Sequence[Array], shared_bytes: int) -> None:
    """Run a kernel on `grid` = (x, y, z), whose pointers are those of `inputs`, then `outputs`, which it fills.

    bfloat16 arrays may be of any two-byte dtype. Blocks of the grid run side by side, as many as fit 2^17 threads.
    Raises PTXError if the kernel breaks one of the rules above, or holds an instruction not known here.
    """
    program = parse(ptx)
    memory = _Global(inputs, outputs)
    grid = (*grid, 1, 1)[:3]
    blocks = math.prod(grid)
    together = max(1, 2**17 // program.threads)
    for first in range(0, blocks, together):
        _Blocks(program, memory, np.arange(first, min(first + together, blocks)), grid, shared_bytes).run()
    memory.copy_outputs(outputs)


class _Global:
    """The arguments' memory, far enough apart that an address past the end of one is in none."""

    _APART = 1 << 20

    def __init__(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        self.starts, at = [], self._APART
        for array in (*inputs, *outputs):
            self.starts.append(at)
            at += -(-array.nbytes // 256) * 256 + self._APART
        self.sizes = [a.nbytes for a in (*inputs, *outputs)]
        self.inputs = len(inputs)
        self.bytes = np.full(at, _WAIT, np.uint8)
        for start, array in zip(self.starts, inputs, strict=False):
            self.bytes[start : start + array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)
        self.writer = np.full(at // 2, -1, np.int32)

    def check(self, address: Array, size: int, writes: bool) -> None:
        low, high = int(address.min()), int(address.max()) + size
        if np.any(address % np.uint64(size)):
            raise PTXError(f"a {size}-byte access to global memory is not aligned")
        allowed = range(self.inputs, len(self.starts)) if writes else range(self.inputs)
        if not any(self.starts[i] <= low and high <= self.starts[i] + self.sizes[i] for i in allowed):
            raise PTXError(
                f"global memory is {'written outside every output' if writes else 'read outside every input'}"
            )

    def claim(self, address: Array, size: int, block: Array) -> None:
        """Note who writes; a second block's write to the same place is an error."""
        for part in range(0, size, 2):
            at = (address + np.uint64(part)) >> np.uint64(1)
            before = self.writer[at]
            self.writer[at] = block
            if np.any((before != -1) & (before != block) | (self.writer[at] != block)):
                raise PTXError("two blocks of the grid write to the same place in global memory")

    def copy_outputs(self, outputs: Sequence[Array]) -> None:
        for start, array in zip(self.starts[self.inputs :], outputs, strict=True):
            array[...] = self.bytes[start : start + array.nbytes].view(array.dtype).reshape(array.shape)


class _Shared:
    """Each block's shared memory, and which warp last touched each two bytes of it since which barrier."""

    def __init__(self, blocks: int, size: int, warps: int) -> None:
        self.size = -(-max(size, 16) // 1024) * 1024
        self.bytes = np.full(blocks * self.size, _WAIT, np.uint8)
        self.several = warps > 1
        count = blocks * self.size // 2 if self.several else 0
        self.wrote, self.read = np.full(count, -1, np.int32), np.full(count, -1, np.int32)
        self.writer, self.reader = np.zeros(count, np.int8), np.zeros(count, np.int8)
        self.epoch = 0

    def read_by(self, warp: int, flat: Array, size: int) -> None:
        """Note that a warp reads `size` bytes at each of these places."""
        for at in self._watched(flat, size):
            if np.any((self.wrote[at] == self.epoch) & (self.writer[at] != warp)):
                raise PTXError("a warp reads shared memory that another wrote, with no barrier between")
            # Once two warps have read a place, no warp is its only reader.
            several = (self.read[at] == self.epoch) & (self.reader[at] != warp)
            self.read[at], self.reader[at] = self.epoch, np.where(several, -1, warp)

    def write(self, warp: int, flat: Array, data: Array) -> None:
        """Write data (places, bytes) for a warp. Warps that hold the same values may write them to the same place."""
        new = np.ascontiguousarray(data).view(np.uint16)
        words = self.bytes.view(np.uint16)
        for i, at in enumerate(self._watched(flat, data.shape[1])):
            others = (self.wrote[at] == self.epoch) & (self.writer[at] != warp) & (words[at] != new[:, i])
            if np.any(others | ((self.read[at] == self.epoch) & (self.reader[at] != warp))):
                raise PTXError("a warp writes shared memory that another uses, with no barrier between")
            self.wrote[at], self.writer[at] = self.epoch, warp
        for i in range(new.shape[1]):
            words[(flat >> 1) + i] = new[:, i]

    def _watched(self, flat: Array, size: int) -> Iterator[Array]:
        return (((flat + part) >> 1) for part in range(0, size, 2)) if self.several else iter(())


@dataclasses.dataclass
class _Copy:
    """An asynchronous copy on its way: of each lane that made it, the group, the place and the bytes."""

    lane: Array
    group: Array
    flat: Array
    data: Array


class _Blocks:
    """Some blocks of a grid, run in step: warp w of all of them is one vector machine."""

    def __init__(
        self, program: Program, memory: _Global, blocks: Array, grid: Sequence[int], shared_bytes: int
    ) -> None:
        self.program, self.memory = program, memory
        warps = program.threads // _LANES
        self.shared = _Shared(len(blocks), shared_bytes, warps)
        self.warps = [_Warps(self, blocks, grid, warp) for warp in range(warps)]

    def run(self) -> None:
        while True:
            for warp in self.warps:
                warp.run()
            waiting = np.stack([w.waiting.reshape(-1, _LANES).sum(1) for w in self.warps]).sum(0)
            if not waiting.any():
                return
            if np.any((waiting != 0) & (waiting != self.program.threads)):
                raise PTXError("a barrier is not reached by all threads of a block")
            self.shared.epoch += 1
            for warp in self.warps:
                warp.release()


class _Warps:
    """Warp number `warp` of many blocks: registers are vectors of (blocks * 32) lanes, or of 1 where all are equal.

    Lanes that are at the same instruction run together, those furthest behind first, so that they meet again.
    """

    def __init__(self, blocks: _Blocks, index: Array, grid: Sequence[int], warp: int) -> None:
        self.all, self.warp = blocks, warp
        self.memory, self.shared = blocks.memory, blocks.shared
        self.lanes = len(index) * _LANES
        lane = np.tile(np.arange(_LANES, dtype=np.uint32), len(index))
        self.block = np.repeat(index, _LANES).astype(np.int32)
        self.base = np.repeat(np.arange(len(index)), _LANES) * self.shared.size
        block = self.block.astype(np.uint32)
        self.special = {
            "%tid.x": lane + np.uint32(warp * _LANES),
            "%ctaid.x": block % grid[0],
            "%ctaid.y": block // grid[0] % grid[1],
            "%ctaid.z": block // (grid[0] * grid[1]),
            **{f"%nctaid.{axis}": np.full(1, n, np.uint32) for axis, n in zip("xyz", grid, strict=True)},
            "%laneid": lane,
            "global_smem": np.zeros(1, np.uint32),
        }
        self.registers: dict[str, Array] = {}
        self.at: dict[int, Array] = {0: np.ones(self.lanes, bool)}
        self.held: list[tuple[int, Array]] = []
        self.waiting = np.zeros(self.lanes, bool)
        self.mask = self.at[0]
        self.full = True
        self.copies: list[_Copy] = []
        self.groups = np.zeros(self.lanes, np.int64)
        self.products: list[tuple[Array, Array]] = []  # shared memory in use: flat addresses, what they held

    # Control flow

    def run(self) -> None:
        """Until every lane waits at a barrier or has left."""
        instructions = self.all.program.instructions
        while self.at:
            pc = min(self.at)
            self.mask = self.at.pop(pc)
            self.full = bool(self.mask.all())
            while True:
                instruction = instructions[pc]
                pc += 1
                if instruction.op[0] in ("bra", "ret", "bar"):
                    if self._turn(instruction, pc):
                        break
                else:
                    try:
                        self._execute(instruction)
                    except PTXError as error:
                        raise PTXError(f"{error}: {instruction.text}") from None
                if pc in self.at:
                    self._join(pc, self.mask)
                    break

    def _turn(self, instruction: Instruction, after: int) -> bool:
        """Follow a branch, barrier or return; whether this instruction's lanes have been put elsewhere."""
        taken = self.mask if instruction.guard is None else self.mask & self._guard(instruction.guard)
        kind = instruction.op[0]
        if kind == "bar" and instruction.op[1] == "warp":
            return False
        stay = self.mask & ~taken
        if kind == "bar":
            self.held.append((after, taken))
            self.waiting = self.waiting | taken
        elif kind == "bra" and taken.any():
            target = [o for o in instruction.operands if str(o).startswith("$")][-1]
            self._join(self.all.program.labels[target], taken)
        if stay.any():
            self._join(after, stay)
        return True

    def _join(self, pc: int, mask: Array) -> None:
        self.at[pc] = self.at[pc] | mask if pc in self.at else mask

    def release(self) -> None:
        """Let the lanes go that wait at a barrier."""
        for pc, mask in self.held:
            self._join(pc, mask)
        self.held = []
        self.waiting = np.zeros(self.lanes, bool)

    # Operands

    def _guard(self, guard: tuple[str, bool]) -> Array:
        value = self.registers[guard[0]]
        return value if guard[1] else ~value

    def get(self, operand: str, kind: str) -> Array:
        """An operand as a vector of PTX type `kind`."""
        dtype = np.dtype(_TYPES[kind])
        if operand.startswith("%") or operand == "global_smem":
            value = self.special.get(operand)
            value = self.registers[operand] if value is None else value
            if value.dtype.itemsize != dtype.itemsize:
                raise PTXError(f"{operand} is not of type {kind}")
            return value.view(dtype)
        if operand.startswith("0f"):
            return np.array([int(operand[2:], 16)], np.uint32).view(dtype)
        if kind == "pred":
            return np.array([int(operand) != 0])
        return np.array([int(operand.rstrip("U"), 0) & (2 ** (8 * dtype.itemsize) - 1)], f"u{dtype.itemsize}").view(
            dtype
        )

    def wide(self, value: Array) -> Array:
        return np.broadcast_to(value, (self.lanes,))

    def put(self, register: str, value: Array, active: Array | None = None) -> None:
        """Write a register in the active lanes (all that run this instruction, unless fewer are given)."""
        if value.dtype != np.bool_:
            value = value.view(f"u{value.dtype.itemsize}")
        mask = self.mask if active is None else active
        if (self.full and active is None) or register not in self.registers:
            self.registers[register] = value
        else:
            self.registers[register] = np.where(mask, value, self.registers[register])

    # Instructions

    def _execute(self, instruction: Instruction) -> None:
        active = None
        if instruction.guard is not None:
            active = self.mask & self._guard(instruction.guard)
            if not active.any():
                return
        op, operands = instruction.op, instruction.operands
        special = _SPECIAL.get(op[0])
        if special is not None:
            special(self, op, operands, active)
            return
        words = [word for word in op if word not in _MODIFIERS]
        kind = words[-1]
        if words[0] in _ARITHMETIC and len(words) == 2:
            values = [self.get(o, kind) for o in operands[1:]]
            with np.errstate(all="ignore"):
                self.put(operands[0], _ARITHMETIC[words[0]](*values), active)
        else:
            raise PTXError("an instruction that is not known here")

    def address(self, operand: str) -> tuple[str, int]:
        match = re.match(r"\[\s*(%?\w+)\s*(?:\+\s*(-?\d+))?\s*\]", operand)
        if match is None:
            raise PTXError("an address that is not known here")
        return match[1], int(match[2] or 0)

    def shared_flat(self, operand: str, lanes: Array, size: int) -> Array:
        """Where `size` bytes of these lanes lie in all blocks' shared memory."""
        register, offset = self.address(operand)
        address = self.wide(self.get(register, "u32"))[lanes].astype(np.int64) + offset
        if np.any((address < 0) | (address + size > self.shared.size)):
            raise PTXError("an address outside of shared memory")
        if np.any(address % size):
            raise PTXError("an access to shared memory is not aligned")
        flat: Array = self.base[lanes] + address
        return flat

    def global_address(self, operand: str, lanes: Array) -> Array:
        register, offset = self.address(operand)
        address: Array = self.wide(self.get(register, "u64"))[lanes] + np.uint64(offset % 2**64)
        return address


def _named(words: Sequence[str]) -> list[str]:
    return [word for word in words if word not in _MODIFIERS]


def _shift(value: Array, by: Array, left: bool) -> Array:
    """PTX shifts by at most the width; more gives 0 or the sign."""
    bits = 8 * value.dtype.itemsize
    by = by.astype(np.int64) & 0xFFFFFFFF
    near = np.minimum(by, bits - 1).astype(value.dtype)
    moved = value << near if left else value >> near
    beyond = by >= bits
    if value.dtype.kind == "i" and not left:
        return moved
    return np.where(beyond, np.zeros(1, value.dtype), moved)


_ARITHMETIC: dict[str, Callable[..., Array]] = {
    "mov": lambda a: a,
    "add": operator.add,
    "sub": operator.sub,
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
    "rsqrt": lambda a: 1 / np.sqrt(a),
    "rcp": lambda a: 1 / a,
}

_COMPARE: dict[str, Callable[[Array, Array], Array]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}


def _float(bits: Array) -> Array:
    """float32 of bfloat16's bits."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _bfloat16(value: Array) -> Array:
    """The bits of float32 rounded to bfloat16, to the nearest, ties to even."""
    bits = np.ascontiguousarray(value).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(value), np.uint32(0x7FFF), rounded).astype(np.uint16)


def _mov(m: _Warps, op: Any, operands: Any, active: Array | None) -> None:
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


def _multiply(m: _Warps, op: Any, operands: Any, active: Array | None) -> None:
    """mul and mad: of integers the low or the high half of the product, or all of it ("wide")."""
    kind, part = op[-1], op[1]
    a, b = (m.get(o, kind) for o in operands[1:3])
    wide = f"{kind[0]}{2 * int(kind[1:])}"
    with np.errstate(all="ignore"):
        if part == "wide":
            kind, value = wide, a.astype(_TYPES[wide]) * b.astype(_TYPES[wide])
        elif part == "hi" and wide in _TYPES:
            whole = a.astype(_TYPES[wide]) * b.astype(_TYPES[wide])
            value = (whole >> whole.dtype.type(8 * a.dtype.itemsize)).astype(a.dtype)
        elif part == "lo" or kind == "f32":
            value = a * b
        else:
            raise PTXError("a product that is not known here")
        for term in operands[3:]:
            value = value + m.get(term, kind)
    m.put(operands[0], value, active)


def _shl(m: _Warps, op: Any, operands: Any, active: Array | None) -> None:
    value, by = m.get(operands[1], op[-1]), m.get(operands[2], "u32")
    m.put(operands[0], _shift(value, by, op[0] == "shl"), active)


def _funnel(m: _Warps, op: Any, operands: Any, active: Array | None) -> None:
    """Of the 64 bits of two registers, the lower operand first, 32 after a shift."""
    if op[2] != "wrap":
        raise PTXError("a shift that is not known here")
    low, high, by = (m.get(o, "u32").astype(np.uint64) for o in operands[1:])
    by = by & np.uint64(31)
    whole = high << np.uint64(32) | low
    found = (whole << by) >> np.uint64(32) if op[1] == "l" else whole >> by
    m.put(operands[0], found.astype(np.uint32), active)


def _bfe(m: _Warps, op: Any, operands: Any, active: Array | None) -> None:
    value, at, length = m.get(operands[1], op[-1]), int(operands[2], 0), int(operands[3], 0)
    bits = 8 * value.dtype.itemsize
    up = value.view(f"u{value.dtype.itemsize}") << value.view(f"u{value.dtype.itemsize}").dtype.type(bits - at - length)
    m.put(operands[0], up.view(value.dtype) >> value.dtype.type(bits - length), active)


def _prmt(m: _Warps, op: Any, operands: Any, active: Array | None) -> None:
    a, b, selector = (m.get(o, "u32").astype(np.uint64) for o in operands[1:])
    both = a | (b << np.uint64(32))
    found = np.zeros(1, np.uint64)
    for i in range(4):
        choice = (selector >> np.uint64(4 * i)) & np.uint64(15)
        byte = (both >> ((choice & np.uint64(7)) * np.uint64(8))) & np.uint64(255)
        byte = np.where(choice > 7, np.where(byte > 127, np.uint64(255), np.uint64(0)), byte)
        found = found | (byte << np.uint64(8 * i))
    m.put(operands[0], found.astype(np.uint32), active)


def _selp(m: _Warps, op: Any, operands: Any, active: Array | None) -> None:
    a, b = (m.get(o, op[-1]) for o in operands[1:3])
    m.put(operands[0], np.where(m.get(operands[3], "pred"), a, b), active)


def _setp(m: _Warps, op: Any, operands: Any, active: Array | None) -> None:
    if len(op) != 3 or op[1] not in _COMPARE:
        raise PTXError("a comparison that is not known here")
    m.put(operands[0], _COMPARE[op[1]](*(m.get(o, op[-1]) for o in operands[1:])), active)


def _cvt(m: _Warps, op: Any, operands: Any, active: Array | None) -> None:
    to, source = _named(op)[1:]
    if to == "bf16x2":
        high, low = (_bfloat16(m.get(o, "f32")).astype(np.uint32) for o in operands[1:])
        value: Array = (high << np.uint32(16)) | low
    elif to == "bf16":
        value = _bfloat16(m.get(operands[1], source))
    elif source == "bf16":
        value = _float(m.get(operands[1], "b16"))
    else:
        size = m.registers[operands[1]].dtype.itemsize if operands[1] in m.registers else None
        whole = m.get(operands[1], source if size is None else f"{source[0]}{8 * size}")
        value = whole.astype(_TYPES[source]).astype(_TYPES[to])
    m.put(operands[0], value, active)


def _size(op: Sequence[str]) -> int:
    """Bytes that a load or store moves for each of its registers."""
    size = int(op[-1][1:]) // 8
    if size < 2:  # writers and readers are known for every two bytes
        raise PTXError("an access to single bytes, which is not known here")
    return size


def _load(m: _Warps, op: Any, operands: Any, active: Array | None) -> None:
    if op[1] == "param":
        number = int(operands[1].strip("[]").rsplit("_", 1)[1])
        starts = m.memory.starts
        m.put(operands[0], np.array([starts[number] if number < len(starts) else 0], np.uint64), active)
        return
    size = _size(op)
    to = operands[0] if isinstance(operands[0], tuple) else (operands[0],)
    mask = m.mask if active is None else active
    lanes = np.flatnonzero(mask)
    if op[1] == "shared":
        source, at = m.shared.bytes, m.shared_flat(operands[1], lanes, size * len(to))
        m.shared.read_by(m.warp, at, size * len(to))
    else:
        source, at = m.memory.bytes, m.global_address(operands[1], lanes)
        m.memory.check(at, size * len(to), writes=False)
        at = at.astype(np.int64)
    words = source.view(f"u{size}")
    for i, register in enumerate(to):
        value = np.zeros(m.lanes, f"u{size}")
        value[lanes] = words[at // size + i]
        m.put(register, value, active)


def _store(m: _Warps, op: Any, operands: Any, active: Array | None) -> None:
    size = _size(op)
    values = operands[1] if isinstance(operands[1], tuple) else (operands[1],)
    lanes = np.flatnonzero(m.mask if active is None else active)
    data = np.stack([m.wide(m.get(value, f"b{8 * size}"))[lanes] for value in values], 1)
    if op[1] == "shared":
        m.shared.write(m.warp, m.shared_flat(operands[0], lanes, size * len(values)), data.view(np.uint8))
        return
    address = m.global_address(operands[0], lanes)
    m.memory.check(address, size * len(values), writes=True)
    m.memory.claim(address, size * len(values), m.block[lanes])
    words = m.memory.bytes.view(f"u{size}")
    for i in range(len(values)):
        words[address.astype(np.int64) // size + i] = data[:, i]


def _shuffle(m: _Warps, op: Any, operands: Any, active: Array | None) -> None:
    value = m.wide(m.get(operands[1], "b32")).reshape(-1, _LANES)
    lane = np.arange(_LANES)
    by = m.wide(m.get(operands[2], "u32")).reshape(-1, _LANES).astype(np.int64)
    if op[2] not in ("bfly", "idx") or operands[3] != "31":
        raise PTXError("a shuffle that is not known here")
    source = (lane ^ by) if op[2] == "bfly" else by & 31
    m.put(operands[0], np.take_along_axis(value, source, 1).ravel(), active)


def _async_copy(m: _Warps, op: Any, operands: Any, active: Array | None) -> None:
    if op[2] == "commit_group":
        m.groups = m.groups + m.mask
    elif op[2] == "wait_group":
        _arrive(m, m.groups - int(operands[0]))
    else:
        lanes = np.flatnonzero(m.mask if active is None else active)
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
            at = source.astype(np.int64)[:, None] // min(size, 8) + np.arange(max(1, size // 8))
            data[some] = words[at].view(np.uint8).reshape(-1, size)
        m.shared.write(m.warp, to, np.full_like(data, _WAIT))
        m.copies.append(_Copy(lanes, m.groups[lanes], to, data))


def _arrive(m: _Warps, before: Array) -> None:
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


def _rows(m: _Warps, operand: str, count: int) -> Array:
    """Flat addresses (active blocks, count, 8 rows) of the 8 x 8 matrices whose rows' addresses the lanes hold."""
    lanes = np.flatnonzero(_whole(m))[:, None] * _LANES + np.arange(8 * count)
    return m.shared_flat(operand, lanes, 16).reshape(-1, count, 8)


def _whole(m: _Warps) -> Array:
    """Which blocks take part in what a whole warp does together."""
    lanes = m.mask.reshape(-1, _LANES)
    taking: Array = lanes[:, 0]
    if np.any(lanes != taking[:, None]):
        raise PTXError("a part of a warp alone runs an instruction of the whole warp")
    return taking


def _spread(m: _Warps, taking: Array, values: Array) -> Array:
    """(taking blocks, 32) put among all lanes."""
    if taking.all():
        return np.ascontiguousarray(values).ravel()
    found = np.zeros((len(taking), _LANES), values.dtype)
    found[taking] = values
    return found.ravel()


def _matrix(m: _Warps, op: Any, operands: Any, active: Array | None) -> None:
    """ldmatrix and stmatrix: lane l holds elements 2 (l % 4) and the next of row l // 4, or with .trans of a column."""
    if active is not None:
        raise PTXError("an instruction of the whole warp has a condition")
    load = op[0] == "ldmatrix"
    registers, memory = operands if load else operands[::-1]
    rows = _rows(m, memory, len(registers))
    taking = _whole(m)
    for i, register in enumerate(registers):
        at = rows[:, i].ravel()
        if load:
            m.shared.read_by(m.warp, at, 16)
            matrix = m.shared.bytes.view(np.uint16)[at[:, None] // 2 + np.arange(8)].reshape(-1, 8, 8)
            pairs = (matrix.swapaxes(1, 2) if "trans" in op else matrix).reshape(-1, _LANES, 2).astype(np.uint32)
            m.put(register, _spread(m, taking, pairs[..., 0] | (pairs[..., 1] << np.uint32(16))))
        else:
            value = m.wide(m.get(register, "b32")).reshape(-1, _LANES)[taking]
            pairs = np.stack([value & np.uint32(0xFFFF), value >> np.uint32(16)], -1).astype(np.uint16)
            matrix = pairs.reshape(-1, 8, 8)
            matrix = matrix.swapaxes(1, 2) if "trans" in op else matrix
            m.shared.write(m.warp, at, np.ascontiguousarray(matrix).reshape(-1, 8).view(np.uint8))


def _fragment_a(m: _Warps, registers: Sequence[str], taking: Array) -> Array:
    """A 16 x 16 left operand (blocks, 16, 16) float32 from four registers of a warp."""
    found = np.empty((int(taking.sum()), 2, 8, 2, 8), np.float32)  # row half, row, column half, column
    for i, register in enumerate(registers):
        found[:, i % 2, :, i // 2] = _pairs(m, register, taking)
    return found.reshape(-1, 16, 16)


def _pairs(m: _Warps, register: str, taking: Array) -> Array:
    """(blocks, 8, 8) float32 of a register of two bfloat16 a lane."""
    value = m.wide(m.get(register, "b32")).reshape(-1, _LANES)[taking]
    both = np.stack([value << np.uint32(16), value & np.uint32(0xFFFF0000)], -1)
    return both.view(np.float32).reshape(-1, 8, 8)


def _sums(m: _Warps, registers: Sequence[str], taking: Array) -> Array:
    """Accumulators (blocks, 16, 8 * len / 4) float32: lane l holds rows l // 4 and + 8, columns 2 (l % 4) and + 1."""
    values = np.stack([m.wide(m.get(r, "f32")).reshape(-1, _LANES)[taking] for r in registers], 1)
    values = values.reshape(-1, len(registers) // 4, 2, 2, 8, 4)  # blocks, column tile, row half, column, l // 4, l % 4
    return values.transpose(0, 2, 4, 1, 5, 3).reshape(-1, 16, 2 * len(registers))


def _put_sums(m: _Warps, registers: Sequence[str], taking: Array, sums: Array) -> None:
    tiles = len(registers) // 4
    values = sums.reshape(-1, 2, 8, tiles, 4, 2).transpose(0, 3, 1, 5, 2, 4).reshape(-1, len(registers), _LANES)
    for i, register in enumerate(registers):
        m.put(register, _spread(m, taking, values[:, i]))


def _mma(m: _Warps, op: Any, operands: Any, active: Array | None) -> None:
    if op[3] != "m16n8k16" or op[-4:] != ("f32", "bf16", "bf16", "f32") or active is not None:
        raise PTXError("a product that is not known here")
    taking = _whole(m)
    to, a, b, c = operands
    left = _fragment_a(m, a, taking)
    right = np.concatenate([_pairs(m, r, taking).swapaxes(1, 2) for r in b], 1)
    _put_sums(m, to, taking, left @ right + _sums(m, c, taking))


def _wgmma(m: _Warps, op: Any, operands: Any, active: Array | None) -> None:
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
    if shape is None or op[-3:] != ("f32", "bf16", "bf16") or active is not None:
        raise PTXError("a product that is not known here")
    taking = _whole(m)
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
    kept = m.wide(m.get(keep, "pred")).reshape(-1, _LANES)[taking][:, 0]
    if kept.any():
        before = _sums(m, to, taking)
        product = np.where(kept[:, None, None], product + before, product)
    _put_sums(m, to, taking, product)


def _operand(m: _Warps, descriptor: str, extent: int, other_major: bool, taking: Array) -> Array:
    """A wgmma operand in shared memory (blocks, extent, 16) float32 by its matrix descriptor.

    other_major: the extent, not the 16 that are summed over, lies contiguous.
    """
    value = m.wide(m.get(descriptor, "u64")).reshape(-1, _LANES)[taking][:, 0].astype(np.int64)
    base = m.base.reshape(-1, _LANES)[taking][:, 0]
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
        here = value == one
        flat = base[here][:, None, None] + address
        m.shared.read_by(m.warp, flat, 2)
        held = m.shared.bytes.view(np.uint16)[flat // 2]
        m.products.append((flat, held))
        found[here] = _float(held)
    return found


def _nothing(m: _Warps, op: Any, operands: Any, active: Array | None) -> None:
    """Fences: here every access is seen at once."""


_SPECIAL: dict[str, Callable[[_Warps, Any, Any, Array | None], None]] = {
    "mov": _mov,
    "mul": _multiply,
    "mad": _multiply,
    "shl": _shl,
    "shr": _shl,
    "shf": _funnel,
    "bfe": _bfe,
    "prmt": _prmt,
    "selp": _selp,
    "setp": _setp,
    "cvt": _cvt,
    "ld": _load,
    "st": _store,
    "shfl": _shuffle,
    "cp": _async_copy,
    "ldmatrix": _matrix,
    "stmatrix": _matrix,
    "mma": _mma,
    "wgmma": _wgmma,
    "fence": _nothing,
}
