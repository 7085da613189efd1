"""tpu_vm.sh, with a stand-in gcloud that runs what should run on a host here."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.core

SCRIPT = Path(__file__).parents[2] / "launch" / "tpu_vm.sh"
GCLOUD = """#!/usr/bin/env bash
printf '%s\\n' "$*" >> "$HOME/gcloud.log"
for argument; do
  case $argument in --command=*) exec bash -c "${argument#--command=}" ;; esac
done
"""

PROGRAM = """#!/usr/bin/env bash
trap "echo saved; exit" TERM
printf "<%s>" "$@"
echo
while :; do sleep 0.1; done
"""


@pytest.fixture
def tpu_vm(tmp_path):
    """Run the script: tpu_vm("start", ..., TYPE=...) -> the finished process; the host's home folder is tmp_path."""
    gcloud = tmp_path / "bin" / "gcloud"
    gcloud.parent.mkdir()
    gcloud.write_text(GCLOUD)
    gcloud.chmod(0o755)

    def run(*arguments, **environ):
        environ = {"HOME": str(tmp_path), "PATH": f"{gcloud.parent}:{os.environ['PATH']}", **environ}
        return subprocess.run(["bash", SCRIPT, *arguments], env=environ, capture_output=True, text=True, timeout=60)

    return run


SLICE = {"NAME": "pvs", "ZONE": "us-west4-a"}


@pytest.mark.parametrize(
    ("environ", "asked"),
    [
        ({"TYPE": "v5litepod-16"}, "--accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite"),
        ({"TYPE": "v6e-8", "SPOT": "1"}, "--accelerator-type=v6e-8 --runtime-version=v2-alpha-tpuv6e --spot"),
        ({"TYPE": "v4-8", "RUNTIME": "mine"}, "--accelerator-type=v4-8 --runtime-version=mine"),
    ],
)
def test_a_slice_is_requested_with_its_own_software(tpu_vm, tmp_path, environ, asked):
    assert tpu_vm("request", **SLICE, **environ).returncode == 0
    call = "compute tpus queued-resources create pvs --node-id=pvs --zone=us-west4-a"
    assert (tmp_path / "gcloud.log").read_text() == f"{call} {asked}\n"


def test_a_run_starts_with_its_arguments_once_and_stops_by_sigterm(tpu_vm, tmp_path):
    program = tmp_path / "mednext" / "venv" / "bin" / "mednext-jax"
    program.parent.mkdir(parents=True)
    program.write_text(PROGRAM)
    program.chmod(0o755)
    log = tmp_path / "mednext" / "run.log"

    assert tpu_vm("start", "train", "--workdir", "a folder", "--config.x='$HOME'", **SLICE).returncode == 0
    try:
        assert wait_for(log, "<train><--workdir><a folder><--config.x='$HOME'>\n")
        again = tpu_vm("start", "train", **SLICE)
        assert again.returncode == 1 and "a run is going on here" in again.stderr
    finally:
        assert tpu_vm("stop", **SLICE).returncode == 0
    assert wait_for(log, "saved\n")
    assert "--worker=all" in (tmp_path / "gcloud.log").read_text()


@pytest.mark.parametrize(
    ("arguments", "environ", "said"),
    [
        ([], SLICE, "launch/tpu_vm.sh request"),
        (["dance"], SLICE, "launch/tpu_vm.sh request"),
        (["state"], {"NAME": "pvs"}, "ZONE"),
        (["request"], SLICE, "TYPE"),
        (["install"], SLICE, "BUCKET"),
    ],
)
def test_a_wrong_call_says_how(tpu_vm, tmp_path, arguments, environ, said):
    done = tpu_vm(*arguments, **environ)
    assert done.returncode != 0 and said in done.stderr
    assert not (tmp_path / "gcloud.log").exists()


def wait_for(path: Path, text: str) -> bool:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if path.exists() and text in path.read_text():
            return True
        time.sleep(0.05)
    return False
