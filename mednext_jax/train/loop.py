"""The training run: resume, step, validate, save, and leave a model directory."""

from __future__ import annotations

import contextlib
import itertools
import math
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mednext_jax.data.pipeline import batches, to_devices
from mednext_jax.errors import InputError, WorkError
from mednext_jax.io.atomic import atomic_file, refuse_existing
from mednext_jax.model.directory import save_model
from mednext_jax.parallel.mesh import over_samples
from mednext_jax.train.checkpoint import Checkpoints, plain
from mednext_jax.train.config import check_config
from mednext_jax.train.experiment import Experiment
from mednext_jax.train.log import EPOCH_COLUMNS, STEP_COLUMNS, Progress, Stopwatch, Table
from mednext_jax.train.state import TrainState

# A resumed run may change these; anything else would make it another run.
FREE_ON_RESUME = ("data", "steps", "validation_steps", "threads", "mesh", "checkpoint")
SKIPS_TO_STOP = 3


def run(config: ConfigDict, workdir: str | Path) -> Path | None:
    """Train as `config` says, in `workdir`; the same call continues a run that was interrupted.

    Writes config.json, checkpoints/, steps.csv, metrics.csv and at the end model/, the model directory. Returns its
    path, or None if a signal (SIGTERM, Ctrl-C) stopped the run, after saving a checkpoint. Raises InputError for a
    bad configuration, data set or work folder; WorkError when loss or gradient is not finite three times in a row.
    """
    check_config(config)
    workdir = Path(workdir)
    model = workdir / "model"
    if model.exists():
        print(f"This run has finished: {model}")
        return model
    if not (workdir / "config.json").is_file():
        refuse_existing(workdir)
    experiment = Experiment.of(config)
    workdir.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(workdir / "checkpoints", config.checkpoint.keep)
    try:
        state = _first_or_latest(experiment, checkpoints)
        with atomic_file(workdir / "config.json") as path:
            path.write_text(config.to_json(indent=2) + "\n")
        state = _train(experiment, state, checkpoints, workdir)
        done = int(state.step)
        if done < config.steps:
            print(f"Stopped after step {done} of {config.steps}; the same command continues.")
            return None
        provenance = {"trained_by": "mednext-jax", "steps": done, "config": plain(config)}
        return save_model(model, experiment.architecture, _to_host(state.result), experiment.recipe, provenance)
    finally:
        checkpoints.close()


def _first_or_latest(experiment: Experiment, checkpoints: Checkpoints) -> TrainState:
    """1. the newest whole checkpoint; 2. the weights of `start_from`; 3. fresh weights."""
    step = checkpoints.latest
    if step is None:
        return experiment.first_state()
    saved, asked = checkpoints.config(step), plain(experiment.config)
    changed = [name for name in asked if saved.get(name) != asked[name] and name not in FREE_ON_RESUME]
    if changed:
        name = changed[0]
        raise InputError(
            f"The run to continue has another config.{', config.'.join(changed)}.",
            expected=f"{name} = {saved.get(name)}"[:500],
            found=f"{name} = {asked[name]}"[:500],
            mend="use the run's own configuration, or another --workdir",
        )
    return checkpoints.restore(step, experiment.state_like())


def _train(experiment: Experiment, state: TrainState, checkpoints: Checkpoints, workdir: Path) -> TrainState:
    """From `state` to the last step or a signal; a checkpoint of the returned state is on disk."""
    config = experiment.config
    first, saved_config = int(state.step), plain(config)
    steps = Table(workdir / "steps.csv", STEP_COLUMNS, first)
    epochs = Table(workdir / "metrics.csv", EPOCH_COLUMNS, first)
    progress = Progress(first, config.steps, config.steps_per_epoch)
    waiting, last_save = Stopwatch(), time.monotonic()
    # Metrics are read one step late, so that the device always has the next step in its queue.
    pending: tuple[dict[str, jax.Array], Any] | None = None
    unfinished: deque[Sequence[str]] = deque(maxlen=SKIPS_TO_STOP)

    def settle() -> None:
        nonlocal pending
        if pending is None:
            return
        metrics = {name: float(value) for name, value in jax.device_get(pending[0]).items()}
        done = int(metrics.pop("step"))
        skips = int(metrics.pop("skipped_in_row"))
        unfinished.append([experiment.training.ids[i] for i in pending[1]])
        pending = None
        steps.add({"step": done, **metrics})
        progress.step(done, metrics["loss"], waiting.share)
        if skips >= SKIPS_TO_STOP:
            checkpoints.save(int(state.step), state, saved_config)
            checkpoints.wait()
            cases = ", ".join(sorted(set(itertools.chain(*unfinished))))
            raise WorkError(
                f"Loss or gradient was not finite {skips} times in a row, up to step {done}; the weights before "
                f"that are in the last checkpoint. Cases of these batches: {cases}. Look at them for wrong values, "
                "or lower config.optimiser.learning_rate."
            )

    read = batches(
        experiment.training,
        first,
        config.steps,
        part=experiment.reads,
        threads=config.threads,
    )
    ready = to_devices(read, over_samples(experiment.mesh))
    with _stop_signal() as stopped, contextlib.closing(steps), contextlib.closing(epochs):
        with contextlib.closing(progress):
            for step in range(first, config.steps):
                with waiting:
                    host, batch = next(ready)
                state, metrics = experiment.train_step(state, batch)
                settle()
                pending = metrics, host["case"]
                done, score = step + 1, None
                if done % config.steps_per_epoch == 0 or done == config.steps:
                    settle()
                    row = _end_of_epoch(experiment, state, steps, epochs, waiting)
                    if row["dice_average"] > max((r["dice_average"] for r in epochs.rows), default=-math.inf):
                        score = row["dice_average"]
                    epochs.add(row)
                    progress.epoch(row)
                    waiting.reset()
                stop = stopped.is_set() or checkpoints.preempted(done)
                due = time.monotonic() - last_save > 60 * config.checkpoint.minutes
                due |= config.checkpoint.steps > 0 and done % config.checkpoint.steps == 0
                if stop or due or score is not None or done == config.steps:
                    settle()
                    checkpoints.save(done, state, saved_config, score)
                    last_save = time.monotonic()
                if stop:
                    break
    checkpoints.wait()
    return state


def _end_of_epoch(
    experiment: Experiment, state: TrainState, steps: Table, epochs: Table, waiting: Stopwatch
) -> dict[str, float]:
    """The row of metrics.csv for the epoch that ends at `state.step`."""
    config, done = experiment.config, int(state.step)
    epoch = (done - 1) // config.steps_per_epoch
    rows = [row for row in steps.rows if row["step"] > epoch * config.steps_per_epoch]
    seconds, wait = waiting.total, waiting.share
    loss, dice = _validate(experiment, state, epoch)
    before = epochs.rows[-1]["dice_average"] if epochs.rows else math.nan
    # nnU-Net's exponential average of the pseudo Dice, by which the best epoch is chosen.
    average = dice if math.isnan(before) else before if math.isnan(dice) else 0.9 * before + 0.1 * dice
    return {
        "step": done,
        "epoch": epoch + 1,
        "train_loss": float(np.mean([row["loss"] for row in rows])),
        "validation_loss": loss,
        "dice": dice,
        "dice_average": average,
        "learning_rate": rows[-1]["learning_rate"],
        "skipped": rows[-1]["skipped"],
        "seconds": waiting.total,
        "samples_per_second": len(rows) * config.batch_size / seconds,
        "data_wait": wait,
    }


def _validate(experiment: Experiment, state: TrainState, epoch: int) -> tuple[float, float]:
    """Mean loss and pseudo Dice over this epoch's validation patches.

    The pseudo Dice adds up voxels over all patches before dividing, and averages over the classes that occur
    (nnU-Net). NaN without validation patches or foreground.
    """
    config = experiment.config
    first = epoch * config.validation_steps
    read = batches(
        experiment.validation,
        first,
        first + config.validation_steps,
        part=experiment.reads,
        threads=config.threads,
    )
    results = [
        experiment.validation_step(state.result, batch) for _, batch in to_devices(read, over_samples(experiment.mesh))
    ]
    if not results:
        return math.nan, math.nan
    host = jax.device_get(results)
    true, found_wrong, missed = (
        np.sum([np.asarray(r[name], np.float64) for r in host], 0)
        for name in ("true_positive", "false_positive", "false_negative")
    )
    occurs = 2 * true + found_wrong + missed > 0
    dice = 2 * true[occurs] / (2 * true + found_wrong + missed)[occurs]
    return float(np.mean([r["loss"] for r in host])), float(np.mean(dice)) if occurs.any() else math.nan


@contextlib.contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM and the first Ctrl-C set; a second Ctrl-C interrupts at once.

    Several processes stop together through JAX's preemption service instead, which has its own handler.
    """
    event = threading.Event()
    if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
        yield event
        return

    def stop(number: int, frame: Any) -> None:
        if event.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _to_host(params: Any) -> Any:
    return jax.tree.map(np.asarray, jax.device_get(params))
