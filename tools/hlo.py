"""The instructions of a compiled program, read from its text, each with how often it runs: loops counted in full.

XLA's own cost analysis counts a loop's body once, and its `optimal_seconds` assumes full speed of memory or matrix
unit. Times of a TPU's programs are in `tools.tpu_schedule`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping

_INSTRUCTION = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = (.+?) ([a-z][\w\-]*)\((.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*)?\{$")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|\w+_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_WIDTH = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s64": 8, "u64": 8, "f64": 8}
# What neither reads nor writes an array by itself.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call", "conditional", "iota"}
_ARITHMETIC = {
    *("add", "subtract", "multiply", "divide", "maximum", "minimum", "exponential", "log", "tanh", "erf", "power"),
    *("sqrt", "rsqrt", "negate", "abs", "compare", "select"),
}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a program. times: runs of it in one run of the program. fused: part of a kernel, not one itself.

    optional: in a branch of a condition, which may not be taken.
    """

    name: str
    result: str
    operation: str
    arguments: str  # all that follows the operation's opening bracket
    computation: str
    times: int = 1
    fused: bool = False
    optional: bool = False

    @property
    def operands(self) -> list[str]:
        return re.findall(r"[\w.\-]+", re.sub(r"/\*.*?\*/", "", self.arguments.split(")", 1)[0]))

    @property
    def arrays(self) -> list[tuple[str, int]]:
        """Arrays of the result: (type and extents, bytes)."""
        return [(f"{kind}[{extents}]", _elements(extents) * _WIDTH.get(kind, 4)) for kind, extents, _ in self._types]

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.arrays)

    @property
    def elements(self) -> int:
        return sum(_elements(extents) for _, extents, _ in self._types)

    @property
    def extents(self) -> list[int]:
        """Extents of the result's first array."""
        return [int(n) for n in self._types[0][1].split(",") if n]

    @property
    def layouts(self) -> list[tuple[int, bool]]:
        """Arrays of the result as they lie: (bytes with the padding of their tiles, whether in the main memory)."""
        return [
            (_padded(extents, layout) * _WIDTH.get(kind, 4), not re.search(r"S\([1-9]", layout))
            for kind, extents, layout in self._types
        ]

    @property
    def main_memory_bytes(self) -> int:
        """`bytes` with padding, of what lies in the main memory (a TPU's HBM) only."""
        return sum(size for size, main in self.layouts if main)

    @property
    def _types(self) -> list[tuple[str, str, str]]:
        return _ARRAY.findall(self.result)


def instructions(hlo: str) -> list[Instruction]:
    """Instructions in `compiled.as_text()`, in order; of a loop whose length the text does not tell, one turn."""
    found, entry, computation = [], "", ""
    for line in hlo.splitlines():
        if start := _COMPUTATION.match(line):
            computation = start[2]
            entry = computation if start[1] else entry
        elif match := _INSTRUCTION.match(line):
            found.append(Instruction(match[2], match[3], match[4], match[5], computation))
    inside = _by_computation(found)
    times, fused, optional = defaultdict(int, {entry: 1}), set(), set()
    # A computation stands before those that call it.
    for name in reversed(list(inside)):
        for one in inside[name]:
            turns = _turns(one, inside) if one.operation == "while" else 1
            called = _CALLED.findall(one.arguments)
            for branches in _BRANCHES.findall(one.arguments):
                called += re.findall(r"[\w.\-]+", branches)
            for callee in called:
                times[callee] += times[name] * turns
                if one.operation not in ("while", "call", "conditional"):
                    fused.add(callee)
                if one.operation == "conditional" or name in optional:
                    optional.add(callee)
    return [
        dataclasses.replace(
            one,
            times=times[one.computation],
            fused=one.computation in fused,
            optional=one.computation in optional,
        )
        for one in found
        if times[one.computation]
    ]


def flops(program: list[Instruction]) -> int:
    """Operations of matrix products, convolutions (borders and dilation aside) and elementwise arithmetic."""
    known = _by_name(program)
    total = 0
    for one in program:
        if one.operation in ("convolution", "dot"):
            first, second = (known[one.computation, name].extents for name in one.operands[:2])
            if one.operation == "dot":
                contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.arguments)[1]
                products = one.elements * math.prod(first[int(axis)] for axis in contracted.split(",") if axis)
            else:
                products = _convolution_products(one, first, second)
            total += one.times * 2 * products
        elif one.operation in _ARITHMETIC:
            total += one.times * one.elements
        elif one.operation == "reduce":
            total += one.times * known[one.computation, one.operands[0]].elements
    return total


def launches(program: list[Instruction]) -> int:
    """How often a kernel is launched in one run of the program."""
    return sum(one.times for one in program if _is_kernel(one))


def bytes_moved(program: list[Instruction]) -> int:
    """Read and written by all kernels, from and to whatever memory; of a slice, only what it takes or replaces."""
    return sum(one.times * moved for one, moved in kernels(program))


def kernels(
    program: list[Instruction], size: Callable[[Instruction], int] = lambda one: one.bytes
) -> list[tuple[Instruction, int]]:
    """Every kernel and what one run of it reads and writes, each array of `size`; of a slice as in `bytes_moved`."""
    known, inside = _by_name(program), _by_computation(program)
    found = []
    for one in program:
        if not _is_kernel(one):
            continue
        kernel = re.search(r"\bcalls=%?([\w.\-]+)", one.arguments)
        body = inside[kernel[1]] if kernel else [one]
        names = _parameters(body, len(one.operands)) if kernel else one.operands
        updates = [part for part in body if part.operation == "dynamic-update-slice"]
        replaced = [size(known[part.computation, part.operands[1]]) for part in updates]
        users = defaultdict(list)
        for part in body:
            for name in set(part.operands):
                users[name].append(part)
        read = 0
        for operand, name in zip(one.operands, names, strict=True):
            if source := known.get((one.computation, operand)):
                read += int(min(size(source), _read(name, users, size)))
        found.append((one, read + (sum(replaced) or size(one))))
    return found


def _read(name: str, users: Mapping[str, list[Instruction]], size: Callable[[Instruction], int]) -> float:
    """What the `users` in a kernel read of the array that it calls `name`: its slices, or all of it (infinity)."""
    read = 0.0
    for user in users.get(name, ()):
        if user.operation == "bitcast":
            read += _read(user.name, users, size)
        elif user.operation in ("slice", "dynamic-slice"):
            read += size(user)
        elif user.operation != "dynamic-update-slice" or user.operands[0] != name:  # what is replaced is not read
            return math.inf
    return read


def _is_kernel(one: Instruction) -> bool:
    return not (one.fused or one.operation in _FREE or one.operation.endswith("-done"))


def _parameters(body: list[Instruction], count: int) -> list[str]:
    """What a kernel's operands are called in its `body`."""
    names = {int(one.arguments.split(")")[0]): one.name for one in body if one.operation == "parameter"}
    return [names.get(i, "") for i in range(count)]


def _by_name(program: list[Instruction]) -> dict[tuple[str, str], Instruction]:
    return {(one.computation, one.name): one for one in program}


def _by_computation(program: list[Instruction]) -> dict[str, list[Instruction]]:
    inside = defaultdict(list)
    for one in program:
        inside[one.computation].append(one)
    return inside


def _turns(loop: Instruction, inside: dict[str, list[Instruction]]) -> int:
    if told := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.arguments):
        return int(told[1])
    # A counter from 0 compared with a constant, as JAX writes scans.
    condition = re.search(r"condition=%?([\w.\-]+)", loop.arguments)
    lines = inside[condition[1]] if condition else []
    limits = [one.arguments.split(")")[0] for one in lines if one.operation == "constant" and one.result[:3] == "s32"]
    compared = any("direction=LT" in one.arguments for one in lines)
    return int(limits[0]) if compared and len(limits) == 1 else 1


def _convolution_products(one: Instruction, data: list[int], kernel: list[int]) -> int:
    """A TPU's matrix products with a batch are convolutions, too, whose windows meet the data in one place each."""
    data_axes, kernel_axes, result_axes = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.arguments).groups()
    groups = re.search(r"batch_group_count=(\d+)", one.arguments)
    products = kernel[kernel_axes.index("i")] * kernel[kernel_axes.index("o")] * data[data_axes.index("b")]
    products //= int(groups[1]) if groups else 1
    fields = re.search(r"window=\{([^}]*)\}", one.arguments)
    window = dict(field.split("=") for field in fields[1].split()) if fields else {}
    for axis in (label for label in kernel_axes if label.isdigit()):

        def each(name: str, default: str, axis: str = axis) -> list[int]:
            value = window[name].split("x")[int(axis)] if name in window else default
            return [int(number) for number in value.split("_")]

        (size,), (stride,), (before, _) = each("size", "1"), each("stride", "1"), each("pad", "0_0")
        (between,), (step,) = each("lhs_dilate", "1"), each("rhs_dilate", "1")
        span = (data[data_axes.index(axis)] - 1) * between + 1
        places = (
            o * stride + k * step - before for o in range(one.extents[result_axes.index(axis)]) for k in range(size)
        )
        products *= sum(0 <= place < span and place % between == 0 for place in places)
    return products


def _elements(extents: str) -> int:
    return math.prod(int(n) for n in extents.split(",") if n)


def _padded(extents: str, layout: str) -> int:
    """Elements with those that fill up the tiles of a layout like '2,1,0:T(8,128)(2,1)', innermost axis first."""
    sizes = [int(n) for n in extents.split(",") if n]
    order, _, tiling = layout.partition(":")
    tile = re.match(r"T\(([\d,]+)\)", tiling)
    if not tile or not sizes:
        return math.prod(sizes)
    inwards = [sizes[int(axis)] for axis in order.split(",")]
    for axis, multiple in enumerate(reversed([int(n) for n in tile[1].split(",")][-len(inwards) :])):
        inwards[axis] = -(-inwards[axis] // multiple) * multiple
    return math.prod(inwards)
