"""Compile the kernels of a MedNeXt for a GPU that need not be there; report registers, spills and shared memory.

    python -m tools.gpu.kernel_report --variant L --kernel-size 5 --patch 128

Exits with 1 if a kernel needs more shared memory than the GPU has, or on a Hopper, for which the tiles are, if it
spills registers.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import triton
from jax.extend.core import Primitive
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mednext_jax.kernels import launch as kernels_launch
from mednext_jax.kernels import tile_sizes
from mednext_jax.kernels.gpus import SHARED_BYTES
from mednext_jax.model.config import MedNeXtConfig
from tools.gpu.cases import cases

HOPPER = 90
CAPABILITIES = {int(name.replace(".", "")): limit for name, limit in SHARED_BYTES.items()}
_TYPES = {"bfloat16": "*bf16", "float32": "*fp32"}


@dataclasses.dataclass(frozen=True)
class Launch:
    """One kernel with its argument types and constants, as JAX would call it."""

    module: str
    name: str
    types: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    grid: tuple[int, ...]
    constants: tuple[tuple[str, int], ...]
    warps: int
    stages: int

    @classmethod
    def of(cls, kernel: Any, arrays: Iterable[Any], how: Mapping[str, Any]) -> Launch:
        """From a kernel, its inputs and outputs, and what else jax-triton's `triton_call` is given."""
        arrays = tuple(arrays)
        constants = tuple((name, how[name]) for name in kernel.arg_names if name in how)
        types, shapes = tuple(_TYPES[str(a.dtype)] for a in arrays), tuple(tuple(a.shape) for a in arrays)
        options = how["num_warps"], how["num_stages"]
        return cls(kernel.__module__, kernel.__name__, types, shapes, how["grid"], constants, *options)

    @property
    def kernel(self) -> Any:
        return getattr(importlib.import_module(self.module), self.name)

    def __str__(self) -> str:
        constants = " ".join(f"{name}={value}" for name, value in self.constants)
        return f"{self.name} warps={self.warps} stages={self.stages} {constants}"


@dataclasses.dataclass(frozen=True)
class Report:
    registers: int
    spilled_bytes: int
    shared_bytes: int
    seconds: float


def launches(function: Any, *arguments: Any) -> list[Launch]:
    """The kernel launches of a JAX function for arguments of these shapes; nothing runs."""
    with mock.patch.object(kernels_launch, "_jax_triton", lambda: SimpleNamespace(triton_call=_noted_call)):
        equations = _equations(jax.make_jaxpr(function)(*arguments).jaxpr)
        return [equation.params["launch"] for equation in equations if equation.primitive is _LAUNCH]


# In place of jax-triton's call, which exists only where JAX has a GPU's plugin: it notes its launch in the program.
_LAUNCH = Primitive("noted_launch")
_LAUNCH.multiple_results = True
_LAUNCH.def_abstract_eval(lambda *_, outputs, launch: [jax.core.ShapedArray(*output) for output in outputs])


def _noted_call(*inputs: Any, kernel: Any, out_shape: Any, **how: Any) -> Any:
    outputs = tuple((tuple(shape.shape), jnp.dtype(shape.dtype)) for shape in out_shape)
    return _LAUNCH.bind(*inputs, outputs=outputs, launch=Launch.of(kernel, (*inputs, *out_shape), how))


def use_tiles_of(capability: int) -> None:
    """Trace from now on as if the first device were such a GPU, with the package's tiles."""
    tile_sizes.shared_bytes = lambda: CAPABILITIES[capability]  # type: ignore[assignment]
    tile_sizes.tiles_here = dict  # type: ignore[assignment]


def compile_launch(launch: Launch, capability: int) -> Report:
    start = time.perf_counter()
    compiled = compiled_kernel(launch, capability)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        tool = os.path.join(os.path.dirname(triton.__file__), "backends/nvidia/bin/cuobjdump")
        usage = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    match = re.search(r"REG:(\d+) STACK:(\d+).*?LOCAL:(\d+)", usage)
    if match is None:
        raise RuntimeError(f"cuobjdump said nothing of registers: {usage[:500]}")
    registers, stack, local = map(int, match.groups())
    return Report(registers, stack + local, compiled.metadata.shared, time.perf_counter() - start)


def compiled_kernel(launch: Launch, capability: int) -> Any:
    """The kernel compiled by Triton, which keeps it on disk."""
    kernel = launch.kernel
    names = kernel.arg_names
    constants = dict(launch.constants)
    pointers = dict(zip(names, launch.types, strict=False))
    signature = {name: "constexpr" if name in constants else pointers[name] for name in names}
    divisible = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name not in constants}
    source = ASTSource(kernel, signature, {(names.index(n),): v for n, v in constants.items()}, divisible)
    options = {"num_warps": launch.warps, "num_stages": launch.stages}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def _equations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _equations(inner)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="L", choices=list("SBML"))
    parser.add_argument("--kernel-size", type=int, default=5)
    parser.add_argument("--patch", type=int, nargs="+", default=[128], help="extents: one, or d h w")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--only", default="", help="kernels whose name contains this")
    parser.add_argument("--capability", type=int, default=HOPPER, choices=list(CAPABILITIES), help="90 is an H100's")
    options = parser.parse_args()
    extents = tuple(options.patch * 3)[:3]
    config = MedNeXtConfig.variant(options.variant, kernel_size=options.kernel_size)
    use_tiles_of(options.capability)
    found: dict[Launch, None] = {}
    for case in cases(config, extents, options.batch):
        found.update(dict.fromkeys(launches(case.forward_and_backward, case.output, *case.arguments())))
    bad = 0
    for launch in found:
        if options.only not in launch.name:
            continue
        report = compile_launch(launch, options.capability)
        spills = report.spilled_bytes > 0 and options.capability == HOPPER
        wrong = spills or report.shared_bytes > CAPABILITIES[options.capability]
        bad += wrong
        print(
            f"{'BAD ' if wrong else 'ok  '} {report.registers:3d} registers, {report.spilled_bytes:4d} B spilled, "
            f"{report.shared_bytes:6d} B shared, {report.seconds:5.1f} s  {launch}",
            flush=True,
        )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
