"""Outputs appear whole or not at all, and nothing of the user's is overwritten unasked."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mednext_jax.errors import InputError
from mednext_jax.io.atomic import atomic_directory, atomic_file, clear_stale, refuse_existing

pytestmark = pytest.mark.core


def test_a_file_appears_whole(tmp_path):
    target = tmp_path / "new" / "mask.nii.gz"
    with atomic_file(target) as temporary:
        assert temporary.name.endswith(".nii.gz") and temporary.parent == target.parent
        temporary.write_bytes(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert list(target.parent.iterdir()) == [target]


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    target = tmp_path / "table.csv"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), atomic_directory(tmp_path / "model") as temporary:
        (temporary / "part").write_text("half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with atomic_directory(tmp_path / "model") as temporary:
        (temporary / "part").write_text("whole")
    assert (tmp_path / "model" / "part").read_text() == "whole"
    assert (tmp_path / "model").stat().st_mode & 0o700 == 0o700


def test_existing_output_is_refused(tmp_path):
    refuse_existing(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    refuse_existing(tmp_path / "empty")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "data").write_text("precious")
    for target in (tmp_path / "full", tmp_path / "full" / "data"):
        with pytest.raises(InputError, match="not overwritten"):
            refuse_existing(target)
    assert (tmp_path / "full" / "data").read_text() == "precious"


@pytest.mark.parametrize("links", [True, False])
def test_what_another_process_made_in_the_meantime_is_not_overwritten(tmp_path, monkeypatch, links):
    """Both found the place free when they began."""
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here")))
    with pytest.raises(InputError, match="not overwritten"), atomic_file(tmp_path / "a.pt", replace=False) as slow:
        slow.write_text("slow")
        with atomic_file(tmp_path / "a.pt", replace=False) as fast:
            fast.write_text("fast")
    with pytest.raises(InputError, match="not overwritten"), atomic_directory(tmp_path / "b") as slow:
        (slow / "x").write_text("slow")
        with atomic_directory(tmp_path / "b") as fast:
            (fast / "x").write_text("fast")
    assert (tmp_path / "a.pt").read_text() == (tmp_path / "b" / "x").read_text() == "fast"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "b"]


UMASK_STRESS = """
import os, sys, threading
from pathlib import Path
from mednext_jax.io.atomic import atomic_directory, atomic_file
folder = Path(sys.argv[1])
os.umask(0o027)
wrong, busy = [], threading.Event()

def write(k):
    for i in range(100):
        with atomic_file(folder / f"{k}-{i}.csv") as new:
            new.write_text("x")
        with atomic_directory(folder / f"{k}-{i}") as new:
            (new / "part").write_text("x")

def look():
    while not busy.is_set():
        mask = next(line for line in open("/proc/self/status") if line.startswith("Umask"))
        if int(mask.split()[1], 8) != 0o027:
            wrong.append(mask)

watch = threading.Thread(target=look)
watch.start()
threads = [threading.Thread(target=write, args=(k,)) for k in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
busy.set()
watch.join()
print(len(wrong), sorted({oct(p.stat().st_mode & 0o777) for p in folder.iterdir()}), len(list(folder.iterdir())))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the umask is read from /proc")
def test_the_umask_of_the_process_is_never_touched_and_always_obeyed(tmp_path):
    run = [sys.executable, "-c", UMASK_STRESS, tmp_path]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "0 ['0o640', '0o750'] 1600"


KILLED = """
import os, signal, sys
from pathlib import Path
from mednext_jax.io.atomic import atomic_directory, atomic_file
folder = Path(sys.argv[1])
with atomic_file(folder / "a_mask.nii.gz") as file, atomic_directory(folder / "model") as new:
    file.write_text("half")
    (new / "part").write_text("half")
    if sys.argv[2] == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    print("writing", flush=True)
    sys.stdin.read()
"""


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_what_a_killed_process_left_is_cleared_and_blocks_nothing(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, tmp_path, "dies"], timeout=60)
    assert len(names(tmp_path)) == 2 and all(name.startswith(".mednext-jax-") for name in names(tmp_path))
    refuse_existing(tmp_path)  # an empty folder again
    assert names(tmp_path) == []
    subprocess.run([sys.executable, "-c", KILLED, tmp_path, "dies"], timeout=60)
    with atomic_file(tmp_path / "a_mask.nii.gz") as new:
        new.write_text("whole")
    assert names(tmp_path) == ["a_mask.nii.gz"]


def test_what_a_live_process_writes_stays(tmp_path):
    run = [sys.executable, "-c", KILLED, tmp_path, "lives"]
    with subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "writing\n"
        there = names(tmp_path)
        with atomic_file(tmp_path / "b.csv") as new:
            new.write_text("whole")
        with pytest.raises(InputError, match="not overwritten"):
            refuse_existing(tmp_path)
        assert names(tmp_path) == sorted([*there, "b.csv"])
        other.communicate("")
    assert names(tmp_path) == ["a_mask.nii.gz", "b.csv", "model"]


def test_of_another_machine_only_what_is_old_is_cleared(tmp_path):
    for name in ("new", "old"):
        (tmp_path / f".mednext-jax-00000000-{name}.csv").write_text("half")
    os.utime(tmp_path / ".mednext-jax-00000000-old.csv", (0, 0))
    (tmp_path / ".hidden").write_text("the user's")
    clear_stale(tmp_path)
    assert names(tmp_path) == [".hidden", ".mednext-jax-00000000-new.csv"]


def test_a_name_as_long_as_the_file_system_takes_is_written_and_a_longer_one_refused_at_once(tmp_path):
    target = tmp_path / ("n" * 248 + ".nii.gz")
    with atomic_file(target) as new:
        new.write_text("whole")
    assert names(tmp_path) == [target.name]
    with pytest.raises(OSError, match="too long"), atomic_file(tmp_path / ("n" * 300)):
        pytest.fail("nothing is computed for it")
