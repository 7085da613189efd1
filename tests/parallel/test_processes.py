"""Several processes: found only where there are any; their differences and failures are told once."""

from __future__ import annotations

import http.server
import importlib.machinery
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mednext_jax.errors import InputError, WorkError
from mednext_jax.parallel import processes

pytestmark = pytest.mark.core

CHILD = Path(__file__).with_name("run_two_processes.py")
ROOT = CHILD.parents[2]
ALONE = {"TPU_SKIP_MDS_QUERY": "1"}  # what importing JAX leaves on a machine without TPU chips
THREE = {"MEDNEXT_JAX_COORDINATOR": "node1:1234", "MEDNEXT_JAX_PROCESSES": "4", "MEDNEXT_JAX_PROCESS_ID": "3"}
STEP = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_NODELIST": "node1"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param({}, None, id="laptop"),
        pytest.param({**STEP, "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4"}, {}, id="slurm step of four"),
        pytest.param({**STEP, "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}, None, id="one task of an allocation"),
        pytest.param({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, None, id="slurm batch script"),
        pytest.param({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1"}, {}, id="mpi 4"),
        pytest.param({"OMPI_COMM_WORLD_SIZE": "2"}, {"cluster_detection_method": "mpi4py"}, id="mpi 5"),
        pytest.param({"OMPI_COMM_WORLD_SIZE": "1"}, None, id="mpi with one process"),
        pytest.param({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "0"}, {}, id="tpu slice on gke"),
        pytest.param({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None, id="one tpu host"),
        pytest.param({"MEGASCALE_NUM_SLICES": "2"}, {}, id="two tpu slices"),
        pytest.param({"KUBERNETES_SERVICE_HOST": "x", "JOB_COMPLETION_INDEX": "1"}, None, id="a fold on kubernetes"),
        pytest.param({"JAX_COORDINATOR_ADDRESS": "node1:1234"}, {}, id="asked in jax's way"),
        pytest.param({**THREE, "MEDNEXT_JAX_PROCESSES": "1", "MEDNEXT_JAX_PROCESS_ID": "0"}, None, id="asked for one"),
        pytest.param(
            {**STEP, "SLURM_STEP_NUM_TASKS": "2", **THREE},
            {
                "coordinator_address": "node1:1234",
                "num_processes": 4,
                "process_id": 3,
                "cluster_detection_method": "deactivate",
            },
            id="asked wins over slurm",
        ),
    ],
)
def test_processes_are_joined_only_where_there_are_several(environ, expected):
    assert processes.how_to_start(ALONE | environ) == expected


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"MEDNEXT_JAX_PROCESS_ID": ""}, "MEDNEXT_JAX_PROCESS_ID"),
        ({"MEDNEXT_JAX_PROCESS_ID": "4"}, "0 to 3"),
        ({"MEDNEXT_JAX_PROCESSES": "four"}, "MEDNEXT_JAX_PROCESSES"),
        ({"MEDNEXT_JAX_PROCESSES": "-1"}, "MEDNEXT_JAX_PROCESSES"),
        ({"MEDNEXT_JAX_COORDINATOR": "node1"}, "host:port"),
        ({"MEDNEXT_JAX_COORDINATOR": "node1:99999"}, "host:port"),
    ],
)
def test_a_wrong_request_is_named(change, named):
    with pytest.raises(InputError, match=named):
        processes.how_to_start(THREE | change)


@pytest.mark.parametrize(("workers", "expected"), [("10.0.0.1,10.0.0.2", {}), ("10.0.0.1", None)])
def test_a_tpu_vm_asks_its_metadata_server(workers, expected, monkeypatch, tmp_path):
    package = tmp_path / "libtpu"  # stands for the TPU's library, which is not installed with the test extra
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert isinstance(importlib.machinery.PathFinder.find_spec("libtpu"), importlib.machinery.ModuleSpec)

    class Metadata(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.path.endswith("/instance/attributes/worker-network-endpoints")
            self.send_response(200 if known and self.headers["Metadata-Flavor"] == "Google" else 404)
            self.end_headers()
            self.wfile.write(workers.encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert processes.how_to_start({"GCE_METADATA_IP": f"127.0.0.1:{server.server_port}"}) == expected
        server.shutdown()


def test_a_coordinator_that_stays_away_is_named():
    with pytest.raises(WorkError, match=f"127.0.0.1:{(port := free_port())} within 0 s"):
        processes.wait_for_coordinator(f"127.0.0.1:{port}", timeout=0.1)


def test_one_process_agrees_with_itself_and_errors_pass():
    processes.agree("config", {"lr": 0.1})
    with pytest.raises(InputError, match="no data"), processes.checked_together():
        raise InputError("no data")
    with pytest.raises(WorkError, match="no space"), processes.leaving_at_once():
        raise WorkError("no space")


@pytest.fixture(scope="module")
def two():
    """Two real processes with two CPU devices each, joined over gloo; the second one fails in the end."""
    port = free_port()
    environ = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    environ |= {"MEDNEXT_JAX_COORDINATOR": f"127.0.0.1:{port}", "MEDNEXT_JAX_PROCESSES": "2"}
    start = time.monotonic()
    children = [
        subprocess.Popen(
            [sys.executable, CHILD, "fail"],
            env=environ | {"MEDNEXT_JAX_PROCESS_ID": str(process)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    try:
        # The order matters: process 1 must end by itself, without process 0.
        failed = (*children[1].communicate(timeout=120), children[1].returncode, time.monotonic() - start)
    finally:
        children[0].kill()
        children[1].kill()
    first = (*children[0].communicate(), children[0].returncode)
    return first, failed


def section(output: str, name: str) -> str:
    return re.search(f"<{name}>(.*?)</{name}>", output, re.DOTALL)[1]


def test_two_processes_are_one_run(two):
    (first, *_), (second, *_) = two
    assert "sum 6.0 of 2 main True" in first  # 1 + 1 + 2 + 2
    assert "sum 6.0 of 2 main False" in second
    assert "agreed" in first and "agreed" in second


def test_a_disagreement_is_told_once_and_names_process_and_field(two):
    (first, *_), (second, *_) = two
    told = section(first, "different_config")
    assert "do not share the same config: process 1 of 2 differs" in told
    assert "process 0: optimiser.lr = 0.01" in told and "process 1: optimiser.lr = 0.02" in told
    assert "patch" not in told
    assert section(second, "different_config") == "exit 2"


def test_a_problem_of_one_process_stops_all_and_is_told_once(two):
    (first, *_), (second, *_) = two
    told = section(first, "data_missing_on_one")
    assert "process 1 of 2: There is no data." in told and "/data/prepared" in told
    assert section(second, "data_missing_on_one") == "exit 2"


def test_a_problem_of_every_process_is_told_once_without_a_process(two):
    (first, *_), (second, *_) = two
    told = section(first, "wrong_call_everywhere")
    assert told.count("The mesh does not divide the batch.") == 1 and "process" not in told
    assert section(second, "wrong_call_everywhere") == "exit 2"


def test_a_process_that_fails_alone_says_so_and_leaves_at_once(two):
    _, (_, stderr, status, seconds) = two
    assert "mednext-jax: process 1 of 2: the disk is full" in stderr
    assert status == 1
    assert seconds < 100  # JAX's exit barrier alone would have kept it for 300 s


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
