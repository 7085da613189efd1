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


def test_what_is_beyond_it_is_refused(system):
    (system / "meminfo").write_text("MemAvailable: 1048576 kB\n")
    memory.refuse_beyond_memory(2**30, "a.nii", "a scan")
    with pytest.raises(InputError, match="at most 1.0 GiB(.|\n)*2.0 GiB for a scan"):
        memory.refuse_beyond_memory(2**31, "a.nii", "a scan")
