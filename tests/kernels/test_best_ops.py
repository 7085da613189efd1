"""Who computes the blocks: the fused GPU kernels where they can run, else XLA."""

from __future__ import annotations

import importlib.util

import pytest

from mednext_jax.errors import InputError
from mednext_jax.kernels.best_ops import _refusal, best_ops
from mednext_jax.ops.local import LocalOps

pytestmark = pytest.mark.core


class Gpu:
    platform = "gpu"

    def __init__(self, name: str, capability: str) -> None:
        self.device_kind, self.compute_capability = name, capability


V100 = Gpu("Tesla V100", "7.0")


def test_refusals_say_why() -> None:
    assert "float32" in (_refusal(V100, "float32", "group", False) or "")
    assert "instance norm" in (_refusal(V100, "bfloat16", "layer", False) or "")
    assert "Tesla V100 has 7.0" in (_refusal(V100, "bfloat16", "group", False) or "")


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


@pytest.mark.parametrize("capability", ["8.0", "8.9", "9.0"])
def test_a_gpu_takes_the_kernels_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch, capability: str) -> None:
    pytest.importorskip("triton")
    if importlib.util.find_spec("jax_triton") is None:  # its import wants JAX's plugin for a GPU, the choice does not
        pytest.skip("could not import 'jax_triton'")
    monkeypatch.setattr("jax.devices", lambda: [Gpu("NVIDIA GPU", capability)])
    assert type(best_ops(dtype="bfloat16")).__name__ == "ChannelsFirstOps"
    assert type(best_ops(dtype="float32")) is LocalOps
    monkeypatch.setenv("MEDNEXT_JAX_KERNELS", "xla")
    assert type(best_ops(dtype="bfloat16")) is LocalOps


def test_a_gpu_without_the_kernels_is_told_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("jax.devices", lambda: [V100])
    assert type(best_ops(dtype="bfloat16")) is LocalOps
    assert "compute capability" in caplog.text
