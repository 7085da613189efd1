"""The metrics of steps, read one step late."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax

from mednext_jax.errors import WorkError
from mednext_jax.train.step import Metrics

SKIPS_TO_STOP = 3


class NotFiniteError(WorkError):
    """Loss or gradient was not finite in so many steps in a row that more of them would not help."""


class LateMetrics:
    """Metrics on their way from the devices: reading those of a step waits until the next step is in their queue.

    `record` gets each step's as numbers, in order. `ids`: the names of the cases, by which a failure tells its batches.
    """

    def __init__(self, record: Callable[[Mapping[str, float]], None], ids: Sequence[str]):
        self._record, self._ids = record, ids
        self._held: tuple[Metrics, Iterable[int]] | None = None
        self._last_cases: deque[list[str]] = deque(maxlen=SKIPS_TO_STOP)

    def put(self, metrics: Metrics, cases: Iterable[int]) -> None:
        """Hold the metrics of a step that was just sent off, with the indices of its cases; record those before it.

        Raises as `settle`.
        """
        self.settle()
        self._held = metrics, cases

    def settle(self) -> None:
        """Record what is held, waiting for it. Raises NotFiniteError after the third skipped step in a row."""
        if self._held is None:
            return
        metrics, cases = self._held
        self._held = None
        row = {name: float(value) for name, value in jax.device_get(metrics).items()}
        skips = int(row.pop("skipped_in_row"))
        self._last_cases.append([self._ids[i] for i in cases])
        self._record(row)
        if skips >= SKIPS_TO_STOP:
            named = ", ".join(sorted(set(itertools.chain(*self._last_cases))))
            raise NotFiniteError(
                f"Loss or gradient was not finite {skips} times in a row, up to step {int(row['step'])}; the weights "
                f"before that are in the last checkpoint. Cases of these batches: {named}. Look at them for wrong "
                "values, or lower config.optimiser.learning_rate."
            )
