"""Through jax-triton, down to the custom calls that a GPU would run; needs jax-cuda12-plugin but no GPU."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.ops.triton.another_process import run_python

pytest.importorskip("jax_triton")
pytest.importorskip("jax_cuda12_plugin")

PROGRAM = """
import jax, sys
from jax_triton import triton_lib
triton_lib.triton_kernel_call_lib.get_compute_capability = lambda device: 90
from tools.gpu_cases import Case
case = Case("down", 32, 64, 64, 3, (16, 16, 16), 1, 1)
lowered = jax.jit(case.forward_and_backward).trace(*case.arguments()).lower(lowering_platforms=("cuda",))
print("calls", lowered.as_text().count("@triton_kernel_call"), hash(lowered.as_text()))
"""
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
