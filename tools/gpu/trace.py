"""Times of single GPU kernels, by the GPU's own clock."""

from __future__ import annotations

import collections
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.profiler import ProfileData


def kernel_times(run: Callable[..., Any], arguments: tuple[Any, ...], calls: int = 5) -> dict[str, float]:
    """Milliseconds that each kernel takes in one call of `run(*arguments)`, all its launches together; longest first.

    `run` must have been compiled before.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(calls):
                result = run(*arguments)
            jax.block_until_ready(result)
        (path,) = Path(folder).rglob("*.xplane.pb")
        durations = collections.defaultdict(list)
        for plane in ProfileData.from_file(str(path)).planes:
            if plane.name.startswith("/device:GPU"):
                for line in plane.lines:
                    if line.name.startswith("Stream"):
                        for event in line.events:
                            durations[event.name].append(event.duration_ns / 1e6)
    times = {name: sum(d) / calls for name, d in durations.items()}
    return dict(sorted(times.items(), key=lambda item: -item[1]))
