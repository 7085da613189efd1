"""A folder is one process's at a time, and free again when that process is gone."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

from mednext_jax.errors import InputError
from mednext_jax.io import lock
from mednext_jax.io.lock import locked

pytestmark = pytest.mark.core

HOLD = """
import sys, time
from mednext_jax.io.lock import locked
with locked(sys.argv[1], "It is taken."):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder():
    """Start a process that holds a lock; it is killed at the end."""
    started = []

    def start(path):
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(params=["flock", "no locks"])
def kind(request, monkeypatch):
    """With the system's locks, and on a file system that has none."""
    if request.param == "no locks":

        def no_locks(*_):
            raise OSError(errno.ENOSYS, "Function not implemented")

        monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    return request.param


def test_the_second_is_told_who_holds_it_and_a_killed_holder_frees_it(tmp_path, holder):
    path = tmp_path / ".lock"
    process = holder(path)
    with pytest.raises(InputError, match="It is taken") as caught, locked(path, "It is taken."):
        pass
    (problem,) = caught.value.problems
    assert re.fullmatch(rf"process {process.pid} on {socket.gethostname()} since 20\d\d-.+", problem.found)
    assert problem.file == str(tmp_path) and "another folder" in problem.hint
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert path.exists()
    with locked(path, "It is taken."):
        assert f"process {os.getpid()} " in path.read_text()


def test_one_at_a_time_and_nothing_is_left(tmp_path, kind):
    path = tmp_path / ".lock"
    with locked(path, "first"):
        with pytest.raises(InputError, match="second"), locked(path, "second", hint="wait"):
            pass
        with locked(tmp_path / ".other", "another"):
            pass
    assert not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError), locked(path, "again"):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_it_waits_for_a_short_one(tmp_path, holder, kind):
    path = tmp_path / ".lock"
    process = holder(path)
    if kind == "no locks":
        process.kill()
        process.wait()  # its name stays in the file and is seen to be dead
    else:
        subprocess.Popen(["sh", "-c", f"sleep 0.3; kill {process.pid}"])
    with locked(path, "It is taken.", wait=30):
        assert f"process {os.getpid()} " in path.read_text()


def test_without_locks_a_holder_on_another_machine_is_believed(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    path = tmp_path / ".lock"
    path.write_text("process 1 on elsewhere since 2026-01-02 03:04:05+00:00")
    with pytest.raises(InputError, match="process 1 on elsewhere.*\n.*remove .lock there"), locked(path, "Taken."):
        pass
    assert path.exists()


def test_a_folder_that_cannot_be_written_is_an_error_of_the_system(tmp_path):
    with pytest.raises(OSError), locked(tmp_path / "absent" / ".lock", "Taken."):
        pass


def test_many_at_once_never_share_it(tmp_path, kind):
    """A counter that would lose an increment if two threads held the lock together."""
    count = tmp_path / "count"
    count.write_text("0")

    def add():
        for _ in range(20):
            with locked(tmp_path / ".lock", "Taken.", wait=60):
                count.write_text(str(int(count.read_text()) + 1))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count.read_text() == "80"
