"""slurm.sbatch, run by bash with a stand-in srun that starts real processes."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.core

HERE = Path(__file__).parent
SCRIPT = HERE.parents[1] / "launch" / "slurm.sbatch"


@pytest.fixture
def submit(tmp_path):
    """Run the script as SLURM would: submit(arguments, program=, tasks=, array=) -> the finished process."""
    stand_ins = tmp_path / "bin"
    stand_ins.mkdir()
    (stand_ins / "srun").write_text((HERE / "srun").read_text())
    (stand_ins / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol.log\n')
    for path in stand_ins.iterdir():
        path.chmod(0o755)

    def run(arguments, *, program, tasks=1, array=None):
        environ = {name: value for name, value in os.environ.items() if not re.search("(?i)slurm|_proxy$", name)}
        environ |= {
            "PATH": f"{stand_ins}:{os.environ['PATH']}",
            "PYTHONPATH": str(HERE.parents[1]),
            "HOME": str(tmp_path),
            "JAX_PLATFORMS": "cpu",
            "MEDNEXT_JAX": program,
            "SLURM_JOB_ID": str(job_with_a_free_port()),
            "SLURM_NTASKS": str(tasks),
            "SLURM_PROCID": "0",  # a batch script has these too
            "SLURM_LOCALID": "0",
        }
        if array is not None:
            environ["SLURM_ARRAY_TASK_ID"] = str(array)
        run.job = environ["SLURM_JOB_ID"]
        return subprocess.run(
            ["bash", SCRIPT, *arguments], env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=120
        )

    run.requeued = tmp_path / "scontrol.log"
    return run


def test_tasks_join_and_a_fold_is_chosen_by_the_array(submit, tmp_path):
    call = ["train", "--config", "configs/a.py", "--workdir", "runs/fold_%a", "--config.fold=%a"]
    (tmp_path / "runs" / "fold_3" / "model").mkdir(parents=True)
    done = submit(call, program=f"{sys.executable} {HERE / 'run_task.py'}", tasks=2, array=3)
    assert done.returncode == 0, done.stderr
    said = "train --config configs/a.py --workdir runs/fold_3 --config.fold=3"
    assert sorted(re.findall("task .*", done.stdout)) == [f"task {i} of 2: {said}: sum 3" for i in range(2)]
    assert not submit.requeued.exists()


def test_arguments_pass_as_they_are(submit):
    call = ["predict", "-i", "a folder/*", "-m", "$HOME", "--part", "%a/8"]
    done = submit(call, program="printf <%s>", array=8)
    assert done.stdout == "<predict><-i><a folder/*><-m><$HOME><--part><8/8>"


@pytest.mark.parametrize("workdir", [["--workdir", "a run/fold_%a"], ["--workdir=a run/fold_%a"]])
def test_a_stopped_run_goes_back_into_the_queue_until_its_model_is_there(submit, tmp_path, workdir):
    call = ["train", "--config", "a.py", *workdir]
    assert submit(call, program="true", tasks=2, array=3).returncode == 0
    assert submit.requeued.read_text() == f"requeue {submit.job}\n"
    (tmp_path / "a run" / "fold_3" / "model").mkdir(parents=True)
    submit.requeued.unlink()
    assert submit(call, program="true", array=3).returncode == 0
    assert not submit.requeued.exists()


def test_a_program_that_sigterm_ended_goes_back_into_the_queue(submit, tmp_path):
    (tmp_path / "stopped.sh").write_text("kill $$")
    assert submit(["predict"], program="bash stopped.sh", tasks=2).returncode == 143
    assert submit.requeued.read_text() == f"requeue {submit.job}\n"


@pytest.mark.parametrize("status", [1, 2])
def test_a_failed_job_does_not(submit, tmp_path, status):
    (tmp_path / "failed.sh").write_text(f"exit {status}")
    assert submit(["train", "--workdir", "run"], program="bash failed.sh").returncode == status
    assert not submit.requeued.exists()


@pytest.mark.parametrize("arguments", [[], ["train", "--config.fold=%a"]])
def test_a_wrong_call_says_how(submit, arguments):
    done = submit(arguments, program="true")
    assert done.returncode == 2
    assert "--array=LIST" in done.stderr


def test_the_job_asks_for_one_task_a_gpu_and_for_continuing():
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", SCRIPT.read_text(), re.MULTILINE))
    assert options["gres"] == f"gpu:{options['ntasks-per-node']}"
    assert options["signal"] == "TERM@120"
    assert {"requeue", "open-mode"} <= options.keys()
    assert not {"gpus-per-task", "gpu-bind"} & options.keys()


def job_with_a_free_port() -> int:
    """A job id whose port is free: JAX takes 61440 + id mod 4096 (jax/_src/clusters/slurm_cluster.py)."""
    for job in range(os.getpid() % 4096, 1 << 20):
        with socket.socket() as listener:
            try:
                listener.bind(("", 61440 + job % 4096))
            except OSError:
                continue
            return job
    raise AssertionError("no free port")
