"""Through jax-triton, down to the custom calls that a GPU would run; needs jax-cuda12-plugin but no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("jax_triton")
pytest.importorskip("jax_cuda12_plugin")

ROOT = Path(__file__).parents[3]
PROGRAM = """
import jax
from jax_triton import triton_lib
triton_lib.triton_kernel_call_lib.get_compute_capability = lambda device: 90
from tools.gpu_cases import Case
case = Case("down", 32, 64, 64, 3, (16, 16, 16), 1, 1)
lowered = jax.jit(case.forward_and_backward).trace(*case.arguments()).lower(lowering_platforms=("cuda",))
print("calls", lowered.as_text().count("@triton_kernel_call"))
"""


@pytest.mark.slow
def test_a_block_lowers_to_one_custom_call_a_kernel() -> None:
    # Importing jax-triton, as an earlier test may have done, empties the cache's path.
    ours = ("TRITON_INTERPRET", "TRITON_CACHE_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    environment.update(JAX_PLATFORMS="cpu", PYTHONPATH=str(ROOT))
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, capture_output=True, text=True)
    # gather, forward, weight gradients, input gradient, scatter, kernel gradient
    assert "calls 6" in done.stdout, done.stdout + done.stderr[-2000:]
