"""Who computes the blocks: XLA, or the fused GPU kernels when they are asked for and can run."""

from __future__ import annotations

import pytest

from mednext_jax.errors import InputError
from mednext_jax.ops.local import LocalOps
from mednext_jax.ops.triton import _refusal, best_ops

pytestmark = pytest.mark.core


class A100:
    platform = "gpu"
    device_kind = "NVIDIA A100"
    compute_capability = "8.0"


def test_refusals_say_why() -> None:
    assert "float32" in (_refusal(A100(), "float32", "group", False) or "")
    assert "instance norm" in (_refusal(A100(), "bfloat16", "layer", False) or "")
    assert "8.0" in (_refusal(A100(), "bfloat16", "group", False) or "")


def test_without_a_gpu_the_operations_are_xlas(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert type(best_ops(dtype="bfloat16")) is LocalOps
    assert not caplog.messages
    monkeypatch.setenv("MEDNEXT_JAX_KERNELS", "triton")
    assert type(best_ops(dtype="bfloat16")) is LocalOps
    assert "NVIDIA" in caplog.text
    monkeypatch.setenv("MEDNEXT_JAX_KERNELS", "cuda")
    with pytest.raises(InputError, match="MEDNEXT_JAX_KERNELS"):
        best_ops(dtype="bfloat16")
