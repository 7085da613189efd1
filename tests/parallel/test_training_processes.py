"""Real processes train as one: with the numbers of one device, stopped by a signal to any of them, resumed anywhere."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mednext_jax.evaluate.scores_file import read_scores
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.parallel.processes import HEARTBEAT
from mednext_jax.train.configuration import architecture, default_config
from mednext_jax.weights.directory import load_model
from tests.augment_probabilities import AUGMENT_PROBABILITIES
from tests.train.conftest import write_prepared

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[2]
CHILD = ROOT / "tests/train/run_training.py"
STEPS = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def values(folder):
    """The configuration without its mesh."""
    config = default_config()
    config.data = str(write_prepared(folder / "prepared"))
    config.model = architecture(MedNeXtConfig(base_channels=4, block_counts=(1,) * 9, deep_supervision=True))
    config.steps, config.steps_per_epoch, config.validation_steps = STEPS, STEPS, 1
    config.patch_size, config.final_validation = (32, 32, 32), False
    config.checkpoint.steps = 4
    for name in AUGMENT_PROBABILITIES:
        config.augment[name] = 0.0
    return config.to_dict()


@pytest.fixture(scope="module")
def alone(values, folder):
    """The work folder of a run on one device."""
    finish(start(values, folder / "alone", 1, 1, (1, 1, 1)))
    return folder / "alone"


def start(values, workdir, processes, devices, mesh, *, shared=False, last=None, last_environ=None):
    """`processes` processes with `devices` CPU devices each that train on `mesh` (data, space, height).

    shared: weights and optimiser state are split, too. last, last_environ: what is different for the last of them.
    """
    values = values | {"mesh": dict(zip(("data", "space", "height"), mesh, strict=True)) | {"share_state": shared}}
    workdir.parent.mkdir(exist_ok=True)
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    environ = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environ |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "PYTHONPATH": str(ROOT),
    }
    if processes > 1:
        environ |= {"MEDNEXT_JAX_COORDINATOR": f"localhost:{port}", "MEDNEXT_JAX_PROCESSES": str(processes)}
    running = []
    for i in range(processes):
        if i == processes - 1:
            values, environ = values | (last or {}), environ | (last_environ or {})
        file = workdir.parent / f"{workdir.name}-{processes}-{i}.json"
        file.write_text(json.dumps(values))
        running.append(
            subprocess.Popen(
                [sys.executable, str(CHILD), str(file), str(workdir)],
                env=environ | ({"MEDNEXT_JAX_PROCESS_ID": str(i)} if processes > 1 else {}),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return running


def end(running, timeout):
    """Their exit statuses and outputs."""
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    return [process.returncode for process in running], outputs


def finish(running):
    """Their outputs; all must have ended well."""
    statuses, outputs = end(running, timeout=1500)
    assert statuses == [0] * len(running), "\n".join(outputs)[-8000:]
    return outputs


def wait_until(condition, running):
    while not condition():
        assert running[0].poll() is None, running[0].communicate()[0][-8000:]
        time.sleep(0.1)


def losses(workdir):
    if not (workdir / "steps.csv").exists():
        return {}
    with open(workdir / "steps.csv", newline="") as file:
        return {int(row["step"]): float(row["loss"]) for row in csv.DictReader(file) if row["loss"]}


def check_equal_to_one_device(workdir, alone):
    expected, found = losses(alone), losses(workdir)
    assert list(found) == list(range(1, STEPS + 1))
    # Float32 sums in another order, carried through the steps of AdamW.
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-4)
    ours, theirs = (load_model(path / "model").params["stem"]["kernel"] for path in (workdir, alone))
    np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=1e-4)


@pytest.mark.slow
def test_two_processes_stopped_by_a_signal_to_one_and_continued_by_one_equal_one_device(values, alone, tmp_path):
    together = tmp_path / "together"
    running = start(values, together, 2, 2, (2, 2, 1), shared=True)
    wait_until(lambda: losses(together), running)
    running[1].send_signal(signal.SIGTERM)
    outputs = finish(running)
    done = max(losses(together))
    assert 0 < done < STEPS
    assert (together / "checkpoints" / str(done)).is_dir()  # Orbax names it so when all processes have written
    assert f"Stopped after step {done} of {STEPS}" in outputs[0]
    assert not re.search("Stopped|epoch", outputs[1])  # the first process speaks

    finish(start(values, together, 1, 4, (1, 4, 1)))
    check_equal_to_one_device(together, alone)


@pytest.mark.slow
def test_the_death_of_one_of_four_processes_ends_all_and_is_named_and_a_restart_continues(values, alone, tmp_path):
    together = tmp_path / "together"
    running = start(values, together, 4, 1, (2, 2, 1))
    wait_until((together / "checkpoints" / "4").is_dir, running)
    running[2].kill()
    killed = time.monotonic()
    statuses, outputs = end(running, timeout=HEARTBEAT + 60)
    assert time.monotonic() - killed < HEARTBEAT + 40
    assert statuses[2] == -signal.SIGKILL and 0 not in statuses
    for survivor in (0, 1, 3):  # by us, or by JAX where its own message comes first
        assert re.search(r"[Pp]rocess 2\b|Task 2 heartbeat|heartbeats\):\s+2\b", outputs[survivor]), outputs[survivor]
    assert 4 <= max(losses(together)) < STEPS

    finish(start(values, together, 4, 1, (2, 2, 1), shared=True))
    check_equal_to_one_device(together, alone)


@pytest.fixture
def other_code(tmp_path):
    """A copy of the package that differs in a line."""
    shutil.copytree(ROOT / "mednext_jax", tmp_path / "other" / "mednext_jax", ignore=shutil.ignore_patterns("__pyc*"))
    with open(tmp_path / "other" / "mednext_jax" / "model" / "blocks.py", "a") as file:
        file.write("\nANOTHER = True\n")
    return {"PYTHONPATH": str(tmp_path / "other")}


def test_processes_that_differ_are_refused_before_anything_compiles(values, other_code, folder, tmp_path):
    copy = write_prepared(tmp_path / "copy", cases=5)
    for different, named in [
        ({"last": {"seed": 1}}, ("same configuration: process 1 of 2 differs", "seed = 0", "seed = 1")),
        ({"last": {"data": str(copy)}}, ("same configuration: process 1 of 2 differs", "data_set")),
        ({"last_environ": other_code}, ("same code version: process 1 of 2 differs", "mednext_jax sources")),
        ({"last": {"data": str(tmp_path / "none")}}, ("process 1 of 2: ", str(tmp_path / "none"))),
    ]:
        statuses, outputs = end(start(values, tmp_path / "refused", 2, 1, (2, 1, 1), **different), timeout=300)
        assert statuses == [2, 2]
        assert all(text in outputs[0] for text in named), outputs[0]
        assert "mednext-jax train" not in outputs[1] and "Traceback" not in outputs[1]
        assert not (tmp_path / "refused").exists()


@pytest.mark.slow
def test_two_processes_validate_each_scan_once_with_the_scores_of_one(values, tmp_path):
    values = values | {"steps": 2, "steps_per_epoch": 2, "final_validation": True, "fold": "all"}
    finish(start(values, tmp_path / "alone", 1, 2, (2, 1, 1)))
    finish(start(values, tmp_path / "together", 2, 1, (2, 1, 1)))
    ours, theirs = (read_scores(tmp_path / name / "validation")["cases"] for name in ("together", "alone"))
    assert [*ours] == [*theirs] and len(ours) == 4
    for case in ours:
        assert ours[case]["all"]["dice"] == pytest.approx(theirs[case]["all"]["dice"], abs=1e-3)
        assert (tmp_path / "together" / "validation" / f"{case}_mask.nii.gz").is_file()
