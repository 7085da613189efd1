"""Real processes train as one: with the numbers of one device, stopped by a signal to any of them, resumed anywhere."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.model.directory import load_model
from mednext_jax.train.config import AUGMENT_PROBABILITIES, architecture, default_config
from tests.train.conftest import write_prepared

pytestmark = [pytest.mark.core, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
CHILD = ROOT / "tests/train/run_training.py"
STEPS = 24


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """The configuration as a file, without its mesh."""
    config = default_config()
    folder = tmp_path_factory.mktemp("processes")
    config.data = str(write_prepared(folder / "prepared"))
    config.model = architecture(MedNeXtConfig(base_channels=4, block_counts=(1,) * 9, deep_supervision=True))
    config.steps, config.steps_per_epoch, config.validation_steps = STEPS, STEPS, 1
    config.patch_size, config.final_validation = (32, 32, 32), False
    for name in AUGMENT_PROBABILITIES:
        config.augment[name] = 0.0
    return config, folder


def start(settings, workdir, processes, devices, mesh):
    """`processes` processes with `devices` CPU devices each that train on `mesh` (data, space, height)."""
    config, folder = settings
    values = config.to_dict() | {"mesh": dict(zip(("data", "space", "height"), mesh, strict=True))}
    file = folder / f"{workdir.name}-{processes}-{devices}.json"
    file.write_text(json.dumps(values))
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    environ = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "PYTHONPATH": str(ROOT),
    }
    if processes > 1:
        environ |= {"MEDNEXT_JAX_COORDINATOR": f"localhost:{port}", "MEDNEXT_JAX_PROCESSES": str(processes)}
    return [
        subprocess.Popen(
            [sys.executable, str(CHILD), str(file), str(workdir)],
            env=environ | ({"MEDNEXT_JAX_PROCESS_ID": str(i)} if processes > 1 else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(processes)
    ]


def finish(running):
    """Their outputs; all must have ended well."""
    outputs = [process.communicate(timeout=1500)[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(running), "\n".join(outputs)[-8000:]
    return outputs


def losses(workdir):
    with open(workdir / "steps.csv", newline="") as file:
        return {int(row["step"]): float(row["loss"]) for row in csv.DictReader(file)}


def test_two_processes_on_a_mesh_stopped_and_continued_by_one_equal_one_device(settings, tmp_path):
    finish(start(settings, tmp_path / "alone", 1, 1, (1, 1, 1)))

    together = tmp_path / "together"
    running = start(settings, together, 2, 2, (2, 2, 1))
    while not ((together / "steps.csv").exists() and losses(together)) and running[0].poll() is None:
        time.sleep(0.1)
    running[1].send_signal(signal.SIGTERM)
    outputs = finish(running)
    done = max(losses(together))
    assert 0 < done < STEPS
    assert [f"Stopped after step {done} of {STEPS}" in output for output in outputs] == [True, True]

    finish(start(settings, together, 1, 4, (1, 4, 1)))
    expected, found = losses(tmp_path / "alone"), losses(together)
    assert sorted(found) == list(range(1, STEPS + 1))
    # Float32 sums in another order, carried through the steps of AdamW.
    np.testing.assert_allclose([found[s] for s in expected], list(expected.values()), rtol=1e-4)
    ours, theirs = (load_model(folder / "model").params for folder in (together, tmp_path / "alone"))
    assert ours["stem"]["kernel"].shape == theirs["stem"]["kernel"].shape
