"""How the GPU tools time: medians of the host's clock over rounds of queued calls, after a warm-up."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

_ROUND, _ROUNDS = 0.05, 10  # seconds, number


@dataclasses.dataclass
class Row:
    """One line of a table: what was timed in which form, in milliseconds with the middle half of the rounds."""

    what: str
    form: str
    milliseconds: float | None = None
    spread: tuple[float, float] | None = None
    note: str = ""

    def __str__(self) -> str:
        took = "" if self.milliseconds is None else f"{self.milliseconds:.3f} ms"
        spread = "" if self.spread is None else f"[{self.spread[0]:.3f}, {self.spread[1]:.3f}]"
        return f"{self.what:52s} {self.form:8s} {took:>12s} {spread}  {self.note}"


def queued(
    run: Callable[..., Any], arguments: tuple[Any, ...], wait: Callable[[Any], Any] = jax.block_until_ready
) -> tuple[float, tuple[float, float]]:
    """Median and middle half in ms of `run`, which only starts the device's work; `wait` waits for its result.

    Calls queue up, so that gaps of the host do not count.
    """

    def round_of(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            result = run(*arguments)
        wait(result)
        return (time.perf_counter() - start) / calls

    round_of(2)  # compiles
    calls = max(1, min(100, int(_ROUND / round_of(1))))
    return summary([round_of(calls) * 1e3 for _ in range(_ROUNDS)])


def summary(times: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Median and middle half."""
    low, middle, high = statistics.quantiles(times, n=4)
    return middle, (low, high)


def peak() -> str:
    """The most memory that this process has taken on its first device, where the device tells."""
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" not in stats:
        return "peak not known"
    return f"peak of the process so far {stats['peak_bytes_in_use'] / 2**30:.2f} GiB"
