"""What a machine knows about its kernels: checked once, kept by all that it depends on, believed only when whole."""

from __future__ import annotations

import math
from pathlib import Path

import jax
import pytest

from mednext_jax.errors import WorkError
from mednext_jax.kernels import verdicts
from mednext_jax.kernels.self_check import Verdict
from mednext_jax.kernels.verdicts import kept_verdict, refused
from mednext_jax.ops.block_kind import BlockKind
from tests.kernels.simulated import GOOD, H100, V5E, Checks, Gpu, Tpu, start_anew

pytestmark = pytest.mark.core

ONE, OTHER = BlockKind("block", 32, 64, 32, 3), BlockKind("down", 32, 64, 64, 3)


def test_a_kind_is_checked_once_on_a_machine(checks: Checks) -> None:
    for _ in range(2):
        assert not refused([ONE, OTHER, ONE], True, H100)
        start_anew()
    assert checks.asked == [(ONE, True), (OTHER, True)]
    assert not refused([ONE], False, H100)  # gradients and all: more than prediction asks
    assert len(checks.asked) == 2


def test_prediction_checks_the_forward_pass_alone_and_training_then_the_gradients(checks: Checks) -> None:
    assert not refused([ONE], False, H100)
    assert not refused([ONE], True, H100)
    assert checks.asked == [(ONE, False), (ONE, True)]


def test_wrong_gradients_do_not_keep_prediction_from_the_kernels(checks: Checks) -> None:
    checks.answers[ONE] = Verdict(3e-3, {"input": 2e-2})
    assert refused([ONE], True, H100) == {ONE}
    assert not refused([ONE], False, H100)


def test_a_fault_is_told_in_one_line_with_kind_and_number(checks: Checks, caplog: pytest.LogCaptureFixture) -> None:
    checks.answers[OTHER] = Verdict(3e-3, {"input": 4e-3, "depthwise kernel": 0.31})
    for _ in range(2):
        assert refused([ONE, OTHER], True, H100) == {OTHER}
        start_anew()
    (line,) = [message for message in caplog.messages if "XLA" in message]
    assert "down 32-64-64 k3" in line and "depthwise kernel" in line and "3.1e-01" in line and "H100" in line


def test_what_does_not_compile_is_told_and_not_tried_again(checks: Checks, caplog: pytest.LogCaptureFixture) -> None:
    checks.answers[ONE] = RuntimeError("PassManager::run failed\nwith more")
    for _ in range(2):
        assert refused([ONE, OTHER], True, H100) == {ONE}
        start_anew()
    assert len(checks.asked) == 2
    assert "RuntimeError: PassManager::run failed" in caplog.text and "with more" not in caplog.text


@pytest.mark.parametrize("error", [RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), ImportError("no libcuda.so.1")])
def test_what_may_pass_by_itself_is_not_kept(checks: Checks, error: Exception) -> None:
    checks.answers[ONE] = error
    assert refused([ONE], True, H100) == {ONE}
    del checks.answers[ONE]
    start_anew()
    assert not refused([ONE], True, H100)


def test_a_context_that_died_ends_the_command_and_is_remembered(
    checks: Checks, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks.answers[ONE] = jax.errors.JaxRuntimeError("INTERNAL: illegal memory access")

    def dead(*_: object) -> None:
        raise jax.errors.JaxRuntimeError("INTERNAL: illegal memory access")

    with monkeypatch.context() as patched:
        patched.setattr("jax.numpy.ones", dead)
        with pytest.raises(WorkError, match="start the command again"):
            refused([ONE], True, H100)
    start_anew()
    assert refused([ONE], True, H100) == {ONE} and len(checks.asked) == 1


@pytest.mark.parametrize(
    "name, value",
    [
        ("driver", lambda: "600.1"),
        ("sources_hash", lambda: "other kernels"),
        ("_version", lambda package: "3.9.9"),
        ("_tiles_hash", lambda device: "tuned"),
    ],
)
def test_a_verdict_is_of_what_it_was_made_with(
    checks: Checks, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    refused([ONE], True, H100)
    assert kept_verdict(ONE, True, H100) == GOOD
    assert kept_verdict(ONE, True, Gpu("NVIDIA H200", "9.0")) is None
    assert kept_verdict(BlockKind("block", 32, 64, 32, 3, residual=False), True, H100) is None
    monkeypatch.setattr(verdicts, name, value)
    assert kept_verdict(ONE, True, H100) is None


@pytest.mark.parametrize(
    "name, value", [("sources_hash", lambda folder: "other kernels"), ("_version", lambda package: "0.0.99")]
)
def test_a_tpu_s_verdict_is_of_what_it_was_made_with(
    checks: Checks, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    refused([ONE], True, V5E)
    assert kept_verdict(ONE, True, V5E) == GOOD
    assert kept_verdict(ONE, True, Tpu("TPU v6 lite")) is None
    assert kept_verdict(ONE, True, Tpu("TPU v5 lite", "PJRT C API, another runtime")) is None
    monkeypatch.setattr(verdicts, name, value)
    assert kept_verdict(ONE, True, V5E) is None


def test_the_sources_of_tpu_kernels_are_their_own() -> None:
    """Else a change of one device's kernels would have the other's checked again."""
    assert verdicts.sources_hash("mosaic") != verdicts.sources_hash()


def test_a_damaged_verdict_is_none(checks: Checks, tmp_path: Path) -> None:
    refused([ONE], True, H100)
    (path,) = (tmp_path / "checked").iterdir()
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        for content in (bytes(damaged), whole[:at]):
            path.write_bytes(content)
            start_anew()
            assert kept_verdict(ONE, True, H100) is None, at
    assert not refused([ONE], True, H100)
    assert path.read_bytes() == whole and len(checks.asked) == 2


def test_without_a_disk_a_process_knows_for_itself(
    checks: Checks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "file"))
    for _ in range(2):
        assert not refused([ONE], True, H100)
    assert len(checks.asked) == 1


@pytest.mark.parametrize(
    "verdict, words",
    [
        (GOOD, None),
        (Verdict(5e-3, {"input": 1e-2}), None),
        (Verdict(4e-3), None),
        (Verdict(5.1e-3, {"input": 0.0}), "output"),
        (Verdict(math.nan, {"input": 0.0}), "output is off by nan"),
        (Verdict(1e-3, {"input": 0.5, "expansion": math.nan}), "expansion is off by nan"),
        (Verdict(failure="it does not run here: X"), "does not run"),
    ],
)
def test_the_limits(verdict: Verdict, words: str | None) -> None:
    assert verdict.fault is None if words is None else words in (verdict.fault or "")


def test_the_driver_s_release(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "version"
    monkeypatch.setattr(verdicts, "_DRIVER", file)
    assert verdicts.driver() == "unknown"
    for line, release in (
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023", "535.129.03"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (u@h)", "580.95.05"),
        ("", "unknown"),
    ):
        file.write_text(f"{line}\nGCC version:  gcc version 12.3.0\n")
        assert verdicts.driver() == release
