"""Who computes the blocks: the fused kernels where they can run and have proved themselves, else XLA."""

from __future__ import annotations

import importlib.util

import pytest

from mednext_jax.errors import InputError
from mednext_jax.kernels import verdicts
from mednext_jax.kernels.best_ops import best_ops, refusal
from mednext_jax.kernels.gpus import tell_once
from mednext_jax.ops.block_kind import BlockKind
from mednext_jax.ops.local import LocalOps
from tests.kernels.simulated import MI300, V5E, V100, Gpu, Tpu

pytestmark = pytest.mark.core

ONE, OTHER, LARGE = (BlockKind("block", 32, 64, 32, k) for k in (3, 5, 9))


@pytest.fixture
def needs_triton() -> None:
    pytest.importorskip("triton")
    if importlib.util.find_spec("jax_triton") is None:  # its import wants JAX's plugin for a GPU, the choice does not
        pytest.skip("could not import 'jax_triton'")


def use(monkeypatch: pytest.MonkeyPatch, device: Gpu | Tpu) -> None:
    monkeypatch.setattr("jax.local_devices", lambda: [device])
    tell_once.cache_clear()


def test_refusals_say_why() -> None:
    assert "float32" in (refusal(V100, "float32") or "")
    assert "instance norm" in (refusal(V100, norm="layer") or "")
    assert "Tesla V100 has 7.0" in (refusal(V100) or "")
    assert "AMD Instinct MI300X is an AMD one" in (refusal(MI300) or "")


def test_without_a_gpu_the_operations_are_xlas(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert best_ops(dtype="bfloat16", kinds=[ONE]) == LocalOps()
    assert not caplog.messages
    monkeypatch.setenv("MEDNEXT_JAX_KERNELS", "triton")
    assert best_ops(dtype="bfloat16", kinds=[ONE]) == LocalOps()
    assert "NVIDIA" in caplog.text
    monkeypatch.setenv("MEDNEXT_JAX_KERNELS", "cuda")
    with pytest.raises(InputError, match="MEDNEXT_JAX_KERNELS"):
        best_ops(dtype="bfloat16")


@pytest.mark.usefixtures("needs_triton")
@pytest.mark.parametrize("capability", ["8.0", "8.6", "8.9", "9.0", "10.0", "10.3", "12.0", "12.1"])
def test_a_gpu_takes_the_kernels_that_proved_themselves(monkeypatch: pytest.MonkeyPatch, capability: str) -> None:
    asked = []

    def judge(kinds: list[BlockKind], gradients: bool, device: Gpu) -> frozenset[BlockKind]:
        asked.append((kinds, gradients, device.compute_capability))
        return wrong

    wrong = frozenset[BlockKind]()
    monkeypatch.setattr(verdicts, "refused", judge)
    use(monkeypatch, Gpu("NVIDIA GPU", capability))
    ops = best_ops(dtype="bfloat16", kinds=[ONE, OTHER, LARGE], gradients=False)
    assert type(ops).__name__ == "ChannelsFirstOps" and ops.refused == frozenset()
    # There are no kernels of nine voxels an axis to check.
    assert asked == [([ONE, OTHER], False, capability)]
    wrong = frozenset({OTHER})
    ops = best_ops(dtype="bfloat16", kinds=[ONE, OTHER])
    assert ops.refused == {OTHER} and ops.described == "the fused kernels, not of block 32-64-32 k5"
    wrong = frozenset({ONE, OTHER})
    assert best_ops(dtype="bfloat16", kinds=[ONE, OTHER]) == LocalOps()  # nothing to change the layout for
    assert best_ops(dtype="float32", kinds=[ONE]) == LocalOps()


@pytest.mark.usefixtures("needs_triton")
def test_the_environment_overrides_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "refused", lambda *_: pytest.fail("checked"))
    use(monkeypatch, Gpu("NVIDIA GPU", "9.0"))
    monkeypatch.setenv("MEDNEXT_JAX_KERNELS", "triton")
    assert best_ops(dtype="bfloat16", kinds=[ONE]).described == "the fused kernels"
    monkeypatch.setenv("MEDNEXT_JAX_KERNELS", "xla")
    assert best_ops(dtype="bfloat16", kinds=[ONE]) == LocalOps()


def test_a_gpu_without_the_kernels_is_told_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    use(monkeypatch, V100)
    assert best_ops(dtype="bfloat16", kinds=[ONE]) == LocalOps()
    assert "compute capability" in caplog.text


@pytest.mark.parametrize("switch", [None, "xla"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_an_amd_gpu_runs_xla_s_banded_form(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, dtype: str, switch: str | None
) -> None:
    use(monkeypatch, MI300)
    if switch:
        monkeypatch.setenv("MEDNEXT_JAX_KERNELS", switch)
    ops = best_ops(dtype=dtype, kinds=[ONE])
    assert type(ops) is LocalOps and ops._form == "banded"
    assert ("AMD" in caplog.text) == (switch is None)


def test_a_tpu_takes_the_kernels_that_proved_themselves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    def judge(kinds: list[BlockKind], gradients: bool, device: Tpu) -> frozenset[BlockKind]:
        asked.append((kinds, gradients, device))
        return frozenset({OTHER})

    monkeypatch.setattr(verdicts, "refused", judge)
    use(monkeypatch, V5E)
    narrow = BlockKind("block", 8, 16, 8, 3)  # less than a tile of channels: XLA's
    ops = best_ops(dtype="bfloat16", kinds=[ONE, OTHER, narrow])
    assert asked == [([ONE, OTHER], True, V5E)]
    assert type(ops).__name__ == "LaneOps" and ops.described == "the TPU kernels, not of block 32-64-32 k5"
    assert best_ops(dtype="bfloat16", kinds=[OTHER]) == LocalOps()
    assert not caplog.messages


def test_a_tpu_without_the_kernels_is_told_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(verdicts, "refused", lambda *_: pytest.fail("checked"))
    use(monkeypatch, V5E)
    for options, said in (
        ({"dtype": "float32"}, "asks for float32"),
        ({"dtype": "bfloat16", "norm": "layer"}, "instance norm alone"),
        ({"dtype": "bfloat16", "grn": True}, "instance norm alone"),
    ):
        caplog.clear()
        tell_once.cache_clear()
        assert best_ops(**options, kinds=[ONE]) == LocalOps()
        assert [said in message and "no fused TPU kernels" in message for message in caplog.messages] == [True]
    use(monkeypatch, Tpu("TPU v3"))
    assert best_ops(dtype="bfloat16", kinds=[ONE]) == LocalOps()
    assert "this is a TPU v3" in caplog.text


def test_the_environment_overrides_a_tpu_s_check(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(verdicts, "refused", lambda *_: pytest.fail("checked"))
    use(monkeypatch, V5E)
    monkeypatch.setenv("MEDNEXT_JAX_KERNELS", "mosaic")
    assert best_ops(dtype="bfloat16", kinds=[ONE]).described == "the TPU kernels"
    monkeypatch.setenv("MEDNEXT_JAX_KERNELS", "xla")
    assert best_ops(dtype="bfloat16", kinds=[ONE]) == LocalOps()
    assert not caplog.messages
    monkeypatch.setenv("MEDNEXT_JAX_KERNELS", "triton")
    assert best_ops(dtype="bfloat16", kinds=[ONE]) == LocalOps()
    assert "NVIDIA GPUs, JAX's default device is a tpu" in caplog.text
