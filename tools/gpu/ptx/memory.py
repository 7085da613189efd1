"""A GPU's memory, which knows who wrote and read what since when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tools.gpu.ptx.program import PTXError

Array = np.ndarray[Any, Any]

ABSENT = 0xFF  # what memory holds that nobody wrote, or that is on its way; not a number in bfloat16 and float32


class Global:
    """The arguments' memory, far enough apart that an address past the end of one is in none."""

    _APART = 1 << 20

    def __init__(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        self.starts, at = [], self._APART
        for array in (*inputs, *outputs):
            self.starts.append(at)
            at += -(-array.nbytes // 256) * 256 + self._APART
        self.sizes = [a.nbytes for a in (*inputs, *outputs)]
        self.inputs = len(inputs)
        self.bytes = np.full(at, ABSENT, np.uint8)
        for start, array in zip(self.starts, inputs, strict=False):
            self.bytes[start : start + array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)
        self.writer = np.full(at // 2, -1, np.int32)

    def check(self, address: Array, size: int, writes: bool) -> None:
        low, high = int(address.min()), int(address.max()) + size
        if np.any(address % size):
            raise PTXError(f"a {size}-byte access to global memory is not aligned")
        allowed = range(self.inputs, len(self.starts)) if writes else range(self.inputs)
        if not any(self.starts[i] <= low and high <= self.starts[i] + self.sizes[i] for i in allowed):
            raise PTXError(
                "global memory is " + ("written outside every output" if writes else "read outside every input")
            )

    def claim(self, address: Array, size: int, block: Array) -> None:
        """Note who writes; a second block's write to the same place is an error."""
        for part in range(0, size, 2):
            at = (address + part) >> 1
            before = self.writer[at]
            self.writer[at] = block
            if np.any((before != -1) & (before != block) | (self.writer[at] != block)):
                raise PTXError("two blocks of the grid write to the same place in global memory")

    def copy_outputs(self, outputs: Sequence[Array]) -> None:
        for start, array in zip(self.starts[self.inputs :], outputs, strict=True):
            array[...] = self.bytes[start : start + array.nbytes].view(array.dtype).reshape(array.shape)


class Shared:
    """Each block's shared memory, and which warp last touched each two bytes of it since which barrier."""

    def __init__(self, blocks: int, size: int, warps: int) -> None:
        self.size = -(-max(size, 16) // 1024) * 1024
        self.bytes = np.full(blocks * self.size, ABSENT, np.uint8)
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
