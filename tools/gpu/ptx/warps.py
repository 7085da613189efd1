"""Warps as vector machines: registers, branches and barriers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tools.gpu.ptx.memory import ABSENT, Array, Global, Shared
from tools.gpu.ptx.program import Instruction, Program, PTXError

LANES = 32
TYPES: dict[str, Any] = {
    **{f"b{n}": f"u{n // 8}" for n in (16, 32, 64)},
    **{f"u{n}": f"u{n // 8}" for n in (8, 16, 32, 64)},
    **{f"s{n}": f"i{n // 8}" for n in (8, 16, 32, 64)},
    "f32": "f4",
    "pred": "?",
}


# What an instruction does: to these warps, by the words of its name, with its operands, in these lanes (None: all that
# are here).
Handler = Callable[["Warps", tuple[str, ...], tuple[Any, ...], Array | None], None]


class Blocks:
    """Some blocks of a grid, run in step: warp w of all of them is one vector machine."""

    def __init__(
        self,
        program: Program,
        handlers: Mapping[str, Handler],
        memory: Global,
        blocks: Array,
        grid: Sequence[int],
        shared_bytes: int,
    ) -> None:
        self.program, self.handlers, self.memory = program, handlers, memory
        warps = program.threads // LANES
        self.shared = Shared(len(blocks), shared_bytes, warps)
        self.warps = [Warps(self, blocks, grid, warp) for warp in range(warps)]

    def run(self) -> None:
        while True:
            for warp in self.warps:
                warp.run()
            waiting = np.sum([warp.waiting for warp in self.warps], axis=0)
            if not waiting.any():
                return
            if np.any((waiting != 0) & (waiting != self.program.threads)):
                raise PTXError("a barrier is not reached by all threads of a block")
            self.shared.epoch += 1
            for warp in self.warps:
                warp.release()


class Warps:
    """Warp number `warp` of many blocks: registers are vectors of (blocks * 32) lanes, or of 1 where all are equal.

    Lanes that are at the same instruction run together, those furthest behind first, so that they meet again.
    """

    def __init__(self, blocks: Blocks, index: Array, grid: Sequence[int], warp: int) -> None:
        self.all, self.warp = blocks, warp
        self.memory, self.shared = blocks.memory, blocks.shared
        self.lanes = len(index) * LANES
        lane = np.tile(np.arange(LANES, dtype=np.uint32), len(index))
        self.block = np.repeat(index, LANES).astype(np.int32)
        self.base = np.repeat(np.arange(len(index)), LANES) * self.shared.size
        block = self.block.astype(np.uint32)
        self.special = {
            "%tid.x": lane + np.uint32(warp * LANES),
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
        self.mask = self.at[0]
        self.full = True
        self.copies: list[Any] = []  # on their way (`transfers`)
        self.groups = np.zeros(self.lanes, np.int64)  # of copies that each lane has closed
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

    @property
    def waiting(self) -> Array:
        """How many lanes of each block wait at a barrier."""
        return sum((mask.reshape(-1, LANES).sum(1) for _, mask in self.held), np.zeros(self.lanes // LANES, np.int64))

    # Operands

    def _guard(self, guard: tuple[str, bool]) -> Array:
        value = self.registers[guard[0]]
        return value if guard[1] else ~value

    def get(self, operand: str, kind: str) -> Array:
        """An operand as a vector of PTX type `kind`."""
        dtype = np.dtype(TYPES[kind])
        if operand.startswith("%") or operand == "global_smem":
            value = self.special.get(operand)
            if value is None:
                value = self.registers.get(operand)
            if value is None:  # written under a condition that no lane met
                return np.full(dtype.itemsize, ABSENT, np.uint8).view(dtype)
            if value.dtype.itemsize != dtype.itemsize:
                raise PTXError(f"{operand} is not of type {kind}")
            return value.view(dtype)
        if operand.startswith("0f"):
            return np.array([int(operand[2:], 16)], np.uint32).view(dtype)
        if kind == "pred":
            return np.array([int(operand) != 0])
        number = int(operand.rstrip("U"), 0) % 2 ** (8 * dtype.itemsize)
        return np.array([number], f"u{dtype.itemsize}").view(dtype)

    def wide(self, value: Array) -> Array:
        return np.broadcast_to(value, (self.lanes,))

    def by_warp(self, operand: str, kind: str) -> Array:
        """An operand as (blocks, 32)."""
        return self.wide(self.get(operand, kind)).reshape(-1, LANES)

    def running(self, active: Array | None) -> Array:
        """The numbers of the lanes that run this instruction: those in `active`, or all that are here."""
        return np.flatnonzero(self.mask if active is None else active)

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
        handler = self.all.handlers.get(instruction.op[0])
        if handler is None:
            raise PTXError("an instruction that is not known here")
        handler(self, instruction.op, instruction.operands, active)

    # Addresses

    def _address(self, operand: str) -> tuple[str, int]:
        match = re.match(r"\[\s*(%?\w+)\s*(?:\+\s*(-?\d+))?\s*\]", operand)
        if match is None:
            raise PTXError("an address that is not known here")
        return match[1], int(match[2] or 0)

    def shared_flat(self, operand: str, lanes: Array, size: int) -> Array:
        """Where `size` bytes of these lanes lie in all blocks' shared memory."""
        register, offset = self._address(operand)
        address = self.wide(self.get(register, "u32"))[lanes].astype(np.int64) + offset
        if np.any((address < 0) | (address + size > self.shared.size)):
            raise PTXError("an address outside of shared memory")
        if np.any(address % size):
            raise PTXError("an access to shared memory is not aligned")
        flat: Array = self.base[lanes] + address
        return flat

    def global_address(self, operand: str, lanes: Array) -> Array:
        register, offset = self._address(operand)
        address: Array = self.wide(self.get(register, "s64"))[lanes] + offset
        return address
