"""Through jax-triton, down to the custom calls that a GPU would run; needs jax-cuda12-plugin but no GPU."""

from __future__ import annotations

import re
import subprocess
import zlib
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tests.kernels.another_process import run_python

pytest.importorskip("jax_cuda12_plugin")  # jax-triton cannot be imported without
pytest.importorskip("jax_triton")

PROGRAM = """
import jax, sys
from jax_triton import triton_lib
triton_lib.triton_kernel_call_lib.get_compute_capability = lambda device: 90
from tools.gpu.cases import Case
case = Case("down", 32, 64, 64, 3, (16, 16, 16), 1, 1)
lowered = jax.jit(case.forward_and_backward).trace(case.output, *case.arguments()).lower(lowering_platforms=("cuda",))
print("calls", lowered.as_text().count("@triton_kernel_call"), hash(lowered.as_text()))
"""
# What jaxlib reads in a custom call, as far as it concerns a kernel (jaxlib/gpu/triton.proto, of August 2026).
MESSAGES = {
    "TritonAnyKernelCall": {"kernel_call": (1, "TritonKernelCall")},
    "TritonKernelCall": {"kernel": (1, "TritonKernel"), "grid_0": (2, int)},
    "TritonKernel": {
        "kernel_name": (1, str),
        "shared_mem_bytes": (3, int),
        "ptx": (4, str),
        "compute_capability": (6, int),
        "module_image": (11, "ModuleImageProto"),
    },
    "ModuleImageProto": {"object_file": (1, bytes), "kernel_name": (2, str), "shared_mem_bytes": (3, int)},
}
# As in another process: only what the first left on disk spares the compiler.
AGAIN = """
from jax_triton import triton_lib
def compiler(*_):
    sys.exit("a kernel was compiled again")
triton_lib.compile_ttir_inplace = compiler
"""


def lower(cache: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    program = PROGRAM.replace("from tools", before + "from tools")
    return run_python("-c", program, PYTHONHASHSEED="0", JAX_COMPILATION_CACHE_DIR=str(cache))


@pytest.mark.slow
def test_a_block_lowers_to_one_custom_call_a_kernel_and_compiles_each_once(tmp_path: Path) -> None:
    first = lower(tmp_path)
    # gather, fold, forward, weight gradients, input gradient, scatter, kernel gradient
    assert "calls 7" in first.stdout, first.stdout + first.stderr[-2000:]
    again = lower(tmp_path, AGAIN)
    assert again.stdout == first.stdout, again.stdout + again.stderr[-2000:]
    damaged = next((tmp_path / "triton").iterdir())
    damaged.write_text("{")
    assert "compiled again" in lower(tmp_path, AGAIN).stderr
    assert lower(tmp_path).stdout == first.stdout and damaged.stat().st_size > 1


@pytest.mark.slow
def test_a_call_carries_its_kernel_assembled(tmp_path: Path) -> None:
    """Without the machine code jaxlib runs ptxas for each kernel in each process."""
    show = PROGRAM + "print(lowered.as_text())"
    text = run_python("-c", show, JAX_COMPILATION_CACHE_DIR=str(tmp_path)).stdout
    configs = re.findall(r'@triton_kernel_call.*?backend_config = "(.*?)"', text)
    assert len(configs) == 7
    for config in configs:
        unescaped = re.sub(
            rb"\\([0-9A-F]{2})", lambda m: bytes.fromhex(m[1].decode()), config.encode().replace(b"\\\\", b"\\5C")
        )
        call = read_call(zlib.decompress(unescaped))
        kernel, image = call.kernel, call.kernel.module_image
        assert call.grid_0 and kernel.compute_capability == 90 and f".entry {kernel.kernel_name}(" in kernel.ptx
        assert image.object_file.startswith(b"\x7fELF") and kernel.kernel_name.encode() in image.object_file
        assert (image.kernel_name, image.shared_mem_bytes) == (kernel.kernel_name, kernel.shared_mem_bytes)


def read_call(message: bytes) -> Any:
    """A call's message, read by protobuf."""
    file = descriptor_pb2.FileDescriptorProto(name="triton.proto", package="jax_triton", syntax="proto3")
    types = {str: 9, int: 13, bytes: 12}
    for name, fields in MESSAGES.items():
        described = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            of = {"type": 11, "type_name": kind} if isinstance(kind, str) else {"type": types[kind]}
            described.field.add(name=field, number=number, label=1, **of)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    any_call = message_factory.GetMessageClass(pool.FindMessageTypeByName("jax_triton.TritonAnyKernelCall"))
    return any_call.FromString(message).kernel_call
