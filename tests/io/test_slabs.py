"""Volumes worked on slab by slab."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from mednext_jax.io.slabs import copy_slabs, over_slabs, slabs_of


@pytest.mark.parametrize("depth, count", [(208, 8), (3, 8), (1, 1), (7, 2), (0, 4)])
def test_slabs_cover_every_plane_once_and_in_order(depth: int, count: int) -> None:
    slabs = slabs_of(depth, count)
    assert [d for slab in slabs for d in range(depth)[slab]] == list(range(depth))
    assert len(slabs) == min(depth, count)


def test_results_come_in_the_order_of_the_planes() -> None:
    assert [d for part in over_slabs(50, lambda slab: list(range(50)[slab])) for d in part] == list(range(50))


FORK = """
import os
from mednext_jax.io.slabs import over_slabs
over_slabs(4, lambda slab: None)
child = os.fork()
if not child:
    planes = over_slabs(9, lambda slab: len(range(9)[slab]))
    os._exit(sum(planes))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_process_has_threads_of_its_own() -> None:
    # In a process of its own: this one has JAX's threads, which a fork may leave with their locks held.
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "9", done.stderr


def test_an_error_in_a_slab_reaches_the_caller() -> None:
    def fail(slab: slice) -> None:
        raise MemoryError(str(slab))

    with pytest.raises(MemoryError):
        over_slabs(4, fail)


def test_a_copy_into_a_view_changes_nothing_beside_it() -> None:
    source = np.arange(60.0).reshape(3, 4, 5)
    target = np.zeros((5, 6, 7))
    copy_slabs(target[1:4, 1:5, 1:6], source[:, ::-1])
    np.testing.assert_array_equal(target[1:4, 1:5, 1:6], source[:, ::-1])
    assert target.sum() == source.sum()
