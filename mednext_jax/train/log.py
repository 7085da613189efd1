"""What a run says while it works: two CSV files that survive interruptions, and one line of progress."""

from __future__ import annotations

import csv
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
from tqdm import tqdm

from mednext_jax.errors import shown
from mednext_jax.io.atomic import atomic_file
from mednext_jax.parallel.processes import is_main_process

STEP_COLUMNS = ("step", "loss", "gradient_norm", "learning_rate", "skipped")
EPOCH_COLUMNS = (
    *("step", "epoch", "train_loss", "validation_loss", "patch_dice", "patch_dice_average"),
    *("scan_dice", "learning_rate", "skipped", "seconds", "samples_per_second", "data_wait"),
)
# Columns as version 0.1.0 named them.
FORMER_NAMES = {"dice": "patch_dice", "dice_average": "patch_dice_average"}
MOST_BYTES = 2**30  # of a table that is read


class Table:
    """A CSV file that grows by a row at a time, keyed by its first column, `step`: the number of steps done.

    Opened at a step, it forgets the rows after it: a resumed run writes them again. Numbers are written so that
    they read back exactly.
    """

    def __init__(self, path: Path, columns: Sequence[str], step: int):
        self.columns = tuple(columns)
        self.rows = _rows_until(path, self.columns, step)
        self._file = None
        if is_main_process():
            with atomic_file(path) as new, new.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(self.columns)
                writer.writerows([_text(row[name]) for name in self.columns] for row in self.rows)
            self._file = path.open("a", newline="")

    def add(self, row: Mapping[str, float]) -> None:
        """Append a row with all columns; it is in the file on return. Only the first process writes."""
        self.rows.append(dict(row))
        if self._file is not None:
            csv.writer(self._file).writerow(_text(row[name]) for name in self.columns)
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _rows_until(path: Path, columns: Sequence[str], step: int) -> list[dict[str, float]]:
    """The rows of a table up to `step`; what is damaged is left out and said, for it is only a log."""
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        return []
    header, *lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    names = [FORMER_NAMES.get(name, name) for name in header.strip().split(",")]
    rows: list[dict[str, float]] = []
    damaged = 0 if sorted(names) == sorted(columns) else len(lines)
    for number, line in enumerate([] if damaged else lines):
        row = _numbers(names, line.strip().split(","))
        last = rows[-1]["step"] if rows else 0
        if row is None or not last < row["step"]:
            damaged += number < len(lines) - 1  # the last is empty, or was cut off by a kill
        elif row["step"] <= step:
            rows.append(row)
    if damaged and is_main_process():
        what = f"{path}: {damaged} damaged lines are left out; the run does not depend on them."
        print(shown(what), file=sys.stderr)
    return rows


def _numbers(names: Sequence[str], values: Sequence[str]) -> dict[str, float] | None:
    """A row, None for a line that is none."""
    try:
        return {name: float(value) for name, value in zip(names, values, strict=True)}
    except ValueError:
        return None


def _text(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


class Progress:
    """One line on stderr: a bar on a terminal, a line per epoch elsewhere."""

    def __init__(self, first: int, last: int, steps_per_epoch: int, batch_size: int):
        self._batch_size = batch_size
        self._per_epoch = steps_per_epoch
        self._epochs = -(-last // steps_per_epoch)
        self._speaks = is_main_process()
        self._terminal = self._speaks and sys.stderr.isatty()
        self._dice = math.nan
        self._last = last
        self._bar = tqdm(
            total=last,
            initial=first,
            unit="step",
            disable=not self._terminal,
            dynamic_ncols=True,
            smoothing=0.05,
            bar_format="{percentage:3.0f}% |{bar:20}| {desc} {rate_inv_fmt} ETA {remaining}",
        )

    def step(self, step: int, loss: float, wait: float) -> None:
        """After `step` steps; `wait`: share of the time spent waiting for data."""
        epoch = (step - 1) // self._per_epoch + 1
        speed = self._batch_size * (self._bar.format_dict["rate"] or 0)  # before the first step there is none
        self._bar.set_description_str(
            f"epoch {epoch}/{self._epochs} loss {loss:.4f} patch Dice {self._dice:.3f} "
            f"{speed:.2f} samples/s data wait {wait:.0%}",
            refresh=False,
        )
        self._bar.update(1)

    def epoch(self, row: Mapping[str, float]) -> None:
        """A line of the epoch that ended."""
        self._dice = row["patch_dice"]
        done = int(row["step"])
        epochs_left = (self._last - done) / self._per_epoch
        if not self._speaks:
            return
        self._bar.clear()
        print(
            f"epoch {int(row['epoch'])}/{self._epochs}  loss {row['train_loss']:.4f}  "
            f"validation {row['validation_loss']:.4f}  patch Dice {row['patch_dice']:.3f} "
            f"(average {row['patch_dice_average']:.3f})  {self._batch_size / row['samples_per_second']:.3g} s/step  "
            f"{row['samples_per_second']:.2f} samples/s  "
            f"data wait {row['data_wait']:.0%}  {_duration(row['seconds'])}, "
            f"ETA {_duration(row['seconds'] * epochs_left)}",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        self._bar.close()


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


class Trace:
    """A JAX trace (for Perfetto or TensorBoard) of the steps first ... last - 1."""

    def __init__(self, steps: Sequence[int], folder: Path):
        self._steps, self._folder, self._on = range(*steps), folder, False

    def before(self, step: int) -> None:
        """Start or stop at this step."""
        if step in self._steps and not self._on:
            jax.profiler.start_trace(self._folder)
            self._on = True
        elif step not in self._steps:
            self.close()

    def close(self) -> None:
        if self._on:
            jax.profiler.stop_trace()
            self._on = False


class Stopwatch:
    """Adds up the time in `with` blocks, against the time since it was reset."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.inside, self._start = 0.0, time.perf_counter()

    def __enter__(self) -> None:
        self._entered = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.inside += time.perf_counter() - self._entered

    @property
    def total(self) -> float:
        return time.perf_counter() - self._start

    @property
    def share(self) -> float:
        return self.inside / max(self.total, 1e-9)
