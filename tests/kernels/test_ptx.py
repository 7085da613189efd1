"""The blocks in bfloat16 through the PTX that a GPU would run, forward and all gradients, against float32."""

from __future__ import annotations

import pytest

from tests.kernels.another_process import run_python

pytest.importorskip("triton")
pytest.importorskip("torch")


def check(*arguments: str) -> None:
    done = run_python("-m", "tools.gpu.ptx_check", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "ok " in done.stdout


def test_a_block_as_compiled() -> None:
    check("--patch", "16", "--batch", "2", "--only", "block 32-64-32")


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["90", "89"])
def test_the_check_that_a_gpu_makes_passes_as_compiled(capability: str) -> None:
    check("--small", "--variant", "B", "--capability", capability)


@pytest.mark.slow
@pytest.mark.parametrize("k, patch", [(3, 48), (5, 64)])
def test_every_block_as_compiled(k: int, patch: int) -> None:
    # 48 leaves extents of 12 and 6, whose tiles have masked tails.
    check("--variant", "S", "--kernel-size", str(k), "--patch", str(patch))


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["80", "89", "120"])
def test_every_block_as_compiled_for_other_gpus(capability: str) -> None:
    check("--patch", "32", "--batch", "2", "--capability", capability)
