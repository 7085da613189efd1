"""Work on a volume by several threads, each on a slab of its planes.

NumPy lets other threads run while it works on large arrays, and half the time of a pass over a fresh array is the
system handing out its pages.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

_Result = TypeVar("_Result")
_THREADS = min(8, os.cpu_count() or 1)


def slabs_of(depth: int, count: int = _THREADS) -> list[slice]:
    """At most `count` slices, in order, that together are range(depth)."""
    edges = [depth * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True) if a < b]


def over_slabs(depth: int, work: Callable[[slice], _Result]) -> list[_Result]:
    """work(slab) for every slab of `depth` planes, in order. `work` must not call this again."""
    return list(_threads(os.getpid()).map(work, slabs_of(depth)))


def copy_slabs(target: np.ndarray, source: np.ndarray) -> None:
    """target[...] = source."""

    def copy(slab: slice) -> None:
        target[slab] = source[slab]

    over_slabs(len(target), copy)


@functools.cache
def _threads(_process: int) -> ThreadPoolExecutor:
    # A forked process has its parent's executor without its threads.
    return ThreadPoolExecutor(_THREADS, thread_name_prefix="slabs")
