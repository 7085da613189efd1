"""Every kernel that a network launches compiles, for a Hopper without register spills; needs no GPU."""

from __future__ import annotations

import pytest

from tests.kernels.another_process import run_python

pytest.importorskip("triton")


def report(*arguments: str) -> None:
    done = run_python("tools/gpu/kernel_report.py", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "ok " in done.stdout


def test_strided_gradient_compiles_without_spills() -> None:
    # The quickest of a network's kernels stands for the way there: shapes -> launches -> sm_90 -> registers.
    report("--variant", "S", "--kernel-size", "3", "--patch", "32", "--batch", "1", "--only", "gather_gradient")


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant, k, patch",
    [("L", 5, 128), ("S", 3, 128), ("B", 3, 128), ("S", 5, 96), ("M", 3, 128), ("M", 3, 160), ("S", 7, 128)],
)
def test_kernels_of_a_network_compile_without_spills(variant: str, k: int, patch: int) -> None:
    report("--variant", variant, "--kernel-size", str(k), "--patch", str(patch))


@pytest.mark.parametrize("capability", ["100", "121"])
def test_a_kernel_compiles_for_newer_gpus(capability: str) -> None:
    # One that multiplies; its tile is of those that an H100 shares with a B200, and a GB10 has for itself.
    options = ("--variant", "S", "--patch", "32", "--batch", "1", "--only", "backward_kernel")
    report(*options, "--capability", capability)


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["80", "86", "89", "100", "103", "120", "121"])
def test_kernels_of_a_network_fit_the_shared_memory_of_other_gpus(capability: str) -> None:
    report("--variant", "L", "--kernel-size", "5", "--capability", capability)
