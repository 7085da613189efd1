"""Runs `on_eight_devices/` in a process that has eight CPU devices, which must be asked for before JAX starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.core

FOLDER = Path(__file__).with_name("on_eight_devices")
EIGHT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "8",
    # LLVM's optimisation takes most of a compilation and these tests run each program once.
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
}


@pytest.mark.parametrize("marker", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_on_eight_devices(marker):
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "--durations=0", "-m", marker, str(FOLDER)]
    done = subprocess.run(command, env=os.environ | EIGHT, capture_output=True, text=True, cwd=FOLDER.parents[2])
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-5_000:]
