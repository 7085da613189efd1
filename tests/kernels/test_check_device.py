"""`mednext-jax check-device`: a table of every kind of block, or why there is none."""

from __future__ import annotations

import importlib.util

import pytest

from mednext_jax import main as command_line
from mednext_jax.kernels.self_check import Verdict
from mednext_jax.kernels.verdicts import kept_verdict, refused
from mednext_jax.model.config import published_kinds
from mednext_jax.ops.block_kind import BlockKind
from tests.kernels.simulated import H100, MI300, V5E, Checks, start_anew

pytestmark = pytest.mark.core

ONE = BlockKind("block", 32, 64, 32, 3)


def run(capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str], str]:
    status = command_line.main(["check-device"])
    captured = capsys.readouterr()
    return status, captured.out.splitlines(), captured.err


def test_without_a_gpu_it_says_why_and_what_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDNEXT_JAX_KERNELS", "xla")
    status, lines, _ = run(capsys)
    assert status == 0 and lines[0].startswith("device cpu, ")
    assert lines[1] == "MEDNEXT_JAX_KERNELS=xla is set: it overrides what is found here"
    assert "JAX's default device is a cpu" in lines[2]
    assert lines[3] == "every block runs as XLA's operations, blocks"


def test_an_amd_gpu_s_path_is_stated(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jax.local_devices", lambda: [MI300])
    status, lines, _ = run(capsys)
    assert status == 0 and "compute capability gfx942" in lines[0]
    assert lines[-1] == "every block runs as XLA's operations, banded"


def test_every_published_kind_is_a_row_and_the_verdicts_are_kept(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, checks: Checks
) -> None:
    pytest.importorskip("triton")
    if importlib.util.find_spec("jax_triton") is None:
        pytest.skip("could not import 'jax_triton'")
    monkeypatch.setattr("jax.local_devices", lambda: [H100])
    refused([ONE], True, H100)
    start_anew()
    checks.answers[ONE] = Verdict(3e-3, {"input": 4e-3, "norm scale": 0.2})
    other = published_kinds()[1]
    checks.answers[other] = ValueError("cannot be compiled\nat all")
    status, lines, err = run(capsys)
    assert "NVIDIA H100" in lines[0] and "driver" in lines[0] and "jaxlib" in lines[0]
    rows = lines[lines.index("| --- | --- | --- | --- |") + 1 : -2]
    assert lines[-1].startswith("74 kinds of blocks in ")
    assert [row.split(" | ")[0] for row in rows] == [f"| {kind}" for kind in published_kinds()]
    named = {row.split(" | ")[0].removeprefix("| "): row for row in rows}
    assert "3.0e-03 | 2.0e-01 norm scale | runs as XLA: its gradient" in named[str(ONE)]
    assert "ValueError: cannot be compiled |" in named[str(other)]
    assert named["up 64-128-32 k3"].endswith("| 3.0e-03 | 9.0e-03 depthwise kernel | ok |")
    assert status == 1 and "2 of 74 kinds" in err and "Traceback" not in err
    # A verdict from before was made again.
    start_anew()
    assert kept_verdict(ONE, True, H100) == checks.answers[ONE]


def test_a_tpu_s_kinds_are_rows_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, checks: Checks
) -> None:
    monkeypatch.setattr("jax.local_devices", lambda: [V5E])
    checks.answers[ONE] = Verdict(3e-3, {"input": 0.3})
    status, lines, err = run(capsys)
    assert lines[0].startswith("device TPU v5 lite, libtpu ") and "runtime PJRT C API" in lines[0]
    assert sum(line.endswith("| ok |") for line in lines) == 73
    assert status == 1 and "1 of 74 kinds" in err and "TPU v5 lite" in err
