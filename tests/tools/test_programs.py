"""The reports about compiled programs, for the devices present and a tiny network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[2]
TINY = [
    *("configs/mednext.py:S/3", "--config.model.base_channels=4", "--config.model.block_counts=1,1,1,1,1,1,1,1,1"),
    *("--config.patch_size=32,32,32", "--config.batch_size=2", "--config.augment.mirror_axes=2,"),
    *("--config.augment.rotation=0.0", "--config.augment.scaling=0.0"),
]


def run(tool, *arguments, devices=2):
    environ = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, f"tools/{tool}.py", *TINY, *arguments]
    return subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_programs_for_the_devices_present(tmp_path):
    mesh = ("--mesh", "1,2,1", "--volume", "64,32,32", "--json", str(tmp_path / "numbers.json"), "--markdown")
    done = run("aot_compile", "--topology", "local", *mesh)
    assert done.returncode == 0, done.stderr
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    train, predict = numbers["programs"]
    for program in (train, predict):
        assert program["peak"] >= program["temporaries"] > 0 and program["arguments"] > 0
        assert program["fits"] is None  # nobody says how much memory a CPU may use
        assert program["flops"] > 0 and program["bytes"] > 0
        assert program["estimated_seconds"] is None  # only a TPU's compiler tells
    assert train["collectives"]["collective-permute"]["bytes"] > 0
    assert [line.split(" | ")[0] for line in done.stdout.splitlines()[2:]] == ["| train", "| predict"]


@pytest.mark.slow
def test_bytes_between_devices_against_the_least():
    done = run("comm_report", "--mesh", "1,2,1")
    assert done.returncode == 0, done.stderr
    ratio = float(done.stdout.splitlines()[-1].split("permuted: ")[1].split(" x")[0])
    assert 1 <= ratio <= 1.2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--mesh", "1,3,1"), "does not divide the number of devices"),
        (("--config.batchsize=3",), "did you mean 'batch_size'"),
        (("--mesh", "2,1,1", "--config.batch_size=3"), "does not divide the batch"),
        (("--mesh", "1,2"), "expected integers like -1,1,1, found '1,2'"),
        (("--programs", "train,fit"), "found 'fit'"),
        (("--json", "nowhere/numbers.json"), "no folder nowhere"),
        (("--topology", "nonsense"), "No TPU topology 'nonsense'"),
    ],
)
def test_a_wrong_call_is_told(arguments, said):
    done = run("aot_compile", *arguments)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
