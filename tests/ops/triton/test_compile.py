"""Every kernel that a network launches compiles for sm_90 without register spills; needs no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
pytest.importorskip("jax_triton")

ROOT = Path(__file__).parents[3]


def report(*arguments: str) -> None:
    """In another process, as the kernels of this one are the interpreter's."""
    # Importing jax-triton, as an earlier test may have done, empties the cache's path.
    ours = ("TRITON_INTERPRET", "TRITON_CACHE_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    environment.update(JAX_PLATFORMS="cpu", PYTHONPATH=str(ROOT))
    done = subprocess.run(
        [sys.executable, "tools/kernel_report.py", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "ok " in done.stdout


def test_strided_gradient_compiles_without_spills() -> None:
    # The quickest of a network's kernels stands for the way there: shapes -> launches -> sm_90 -> registers.
    report("--variant", "S", "--kernel-size", "3", "--patch", "32", "--batch", "1", "--only", "gather_gradient")


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant, k, patch", [("L", 5, 128), ("S", 3, 128), ("B", 3, 128), ("S", 5, 96), ("M", 3, 128), ("S", 7, 128)]
)
def test_kernels_of_a_network_compile_without_spills(variant: str, k: int, patch: int) -> None:
    report("--variant", variant, "--kernel-size", str(k), "--patch", str(patch))
