"""Everything that a run writes step by step and epoch by epoch, besides its checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from mednext_jax.parallel.processes import is_main_process
from mednext_jax.train.configuration import TrainConfig
from mednext_jax.train.events import Events
from mednext_jax.train.log import EPOCH_COLUMNS, STEP_COLUMNS, Progress, Stopwatch, Table, Trace
from mednext_jax.train.picture import draw_progress


class Records:
    """The tables, events, trace and picture in `workdir`, and the line of progress, of a run that goes on at `first`.

    `waiting` measures the time since the last epoch and the part of it that went by waiting for data.
    """

    def __init__(self, workdir: Path, first: int, config: TrainConfig):
        self.steps = Table(workdir / "steps.csv", STEP_COLUMNS, first)
        self.epochs = Table(workdir / "metrics.csv", EPOCH_COLUMNS, first)
        self.trace = Trace(config.profile, workdir / "profile")
        self.waiting = Stopwatch()
        self._events = Events(workdir / "events", first)
        self._progress = Progress(first, config.steps, config.steps_per_epoch, config.batch_size)
        self._picture = workdir / "progress.png"

    def add_step(self, row: Mapping[str, float]) -> None:
        """The metrics of a step, of which `step` says how many are done."""
        self.steps.add(row)
        self._events.add("step", self.steps.rows[-1])
        self._progress.step(int(row["step"]), row["loss"], self.waiting.share)

    def add_epoch(self, row: Mapping[str, float]) -> float | None:
        """The metrics of an epoch; its average Dice of validation patches if that is the best so far, else None."""
        score = row["patch_dice_average"]
        best = score > max((before["patch_dice_average"] for before in self.epochs.rows), default=-math.inf)
        self.epochs.add(row)
        self._events.add("epoch", row)
        self._progress.epoch(row)
        if is_main_process():
            draw_progress(self.epochs.rows, self._picture)
        self.waiting.reset()
        return score if best else None

    def close(self) -> None:
        """Close every file and end the line and the trace."""
        for each in (self._events, self._progress, self.epochs, self.steps, self.trace):
            each.close()
