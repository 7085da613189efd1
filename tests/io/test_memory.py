"""The memory that is still free: the least of the machine's and of every control group's."""

from __future__ import annotations

import math

import pytest

from mednext_jax.errors import InputError
from mednext_jax.io import memory

pytestmark = pytest.mark.core


@pytest.fixture
def system(tmp_path, monkeypatch):
    for name, path in (("_MACHINE", "meminfo"), ("_OWN_GROUP", "cgroup"), ("_GROUPS", "groups")):
        monkeypatch.setattr(memory, name, tmp_path / path)
    (tmp_path / "groups/job/step").mkdir(parents=True)
    return tmp_path


def group(folder, limit, used, cache):
    for name, text in (("max", limit), ("current", used), ("stat", f"anon 5\ninactive_file {cache}\nactive_file 1")):
        (folder / f"memory.{name}").write_text(f"{text}\n")


def test_the_least_of_all_limits_counts(system):
    assert memory.free_memory() == math.inf  # another system than Linux
    (system / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    assert memory.free_memory() == 4000 * 1024
    (system / "cgroup").write_text("0::/job/step\n")
    group(system / "groups/job/step", "max", 10, 0)
    assert memory.free_memory() == 4000 * 1024
    group(system / "groups/job", 1000, 700, 99)
    assert memory.free_memory() == 400  # its file cache is given back when it is needed


def group_1(folder, limit, used, cache):
    """A group of version 1; `cache` counts those below it too."""
    folder.mkdir(parents=True, exist_ok=True)
    stat = f"inactive_file 7\ntotal_inactive_file {cache}\ntotal_active_file 1"
    for name, text in (("limit_in_bytes", limit), ("usage_in_bytes", used), ("stat", stat)):
        (folder / f"memory.{name}").write_text(f"{text}\n")


@pytest.mark.parametrize("line", ["9:memory:/job/step", "4:cpu,memory,cpuacct:/job/step"])
def test_control_groups_of_version_1_count(system, line):
    (system / "cgroup").write_text(f"12:cpuset:/job\n{line}\n1:name=systemd:/job\n0::/job/step\n")
    top = system / "groups/memory"
    group_1(top, 2**63 - 4096, 0, 0)  # no limit
    group_1(top / "job/step", 2**63 - 4096, 0, 0)
    group_1(top / "job", 1000, 700, 99)
    assert memory.free_memory() == 400
    group(system / "groups/job/step", 600, 500, 49)  # of version 2, beside it
    assert memory.free_memory() == 150
    group_1(top, 300, 250, 9)  # a container's own group, whose path is that on its host
    assert memory.free_memory() == 60


def test_what_is_beyond_it_is_refused(system):
    (system / "meminfo").write_text("MemAvailable: 1048576 kB\n")
    memory.refuse_beyond_memory(2**30, "a.nii", "a scan")
    with pytest.raises(InputError, match="at most 1.0 GiB(.|\n)*2.0 GiB for a scan"):
        memory.refuse_beyond_memory(2**31, "a.nii", "a scan")
