"""The training run: resume, step, validate, save, and leave a model directory."""

from __future__ import annotations

import contextlib
import itertools
import math
import signal
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

import mednext_jax
from mednext_jax.data.batches import batches, to_devices
from mednext_jax.errors import InputError, WorkError
from mednext_jax.evaluate.case import WHOLE
from mednext_jax.evaluate.scores_file import read_scores
from mednext_jax.io.atomic import atomic_file, refuse_existing
from mednext_jax.io.case_store import CaseStore
from mednext_jax.io.json_file import read_json
from mednext_jax.io.lock import locked
from mednext_jax.parallel.mesh import over_samples
from mednext_jax.parallel.processes import (
    agree,
    checked_together,
    code_version,
    initialise,
    is_main_process,
    leaving_at_once,
)
from mednext_jax.train.card import model_card
from mednext_jax.train.checkpoint import Checkpoints, plain
from mednext_jax.train.config import check_config
from mednext_jax.train.epoch import end_of_epoch
from mednext_jax.train.events import Events
from mednext_jax.train.experiment import Experiment, data_set_hash, to_host
from mednext_jax.train.log import EPOCH_COLUMNS, STEP_COLUMNS, Progress, Stopwatch, Table, Trace
from mednext_jax.train.picture import draw_progress
from mednext_jax.train.state import TrainState
from mednext_jax.train.validation import score_table
from mednext_jax.weights.directory import DESCRIPTION, save_model

# A resumed run may change these; anything else would make it another run.
FREE_ON_RESUME = (
    *("data", "steps", "validation_steps", "scan_validation_epochs", "final_validation"),
    *("threads", "mesh", "checkpoint", "profile"),
)
SKIPS_TO_STOP = 3
LOCK = ".lock"  # held in the work folder while a run works there


def train(config: ConfigDict, workdir: str | Path) -> Path | None:
    """Train as `config` says, in `workdir`; the same call continues a run that was interrupted.

    Writes config.json, checkpoints/, steps.csv, metrics.csv, progress.png and pictures/ of validation scans (with
    matplotlib), events/ (with tensorboardX), at the end validation/ (masks and scores of the fold's validation scans)
    and model/, the model directory. Returns its path, or None if a signal (SIGTERM, Ctrl-C) stopped the run, after
    saving a checkpoint. Several processes (see `parallel.processes.initialise`) make one run; the first writes.
    Raises InputError for a bad configuration, data set or work folder, and while another process trains there;
    WorkError when loss or gradient is not finite three times in a row.
    """
    initialise()
    workdir = Path(workdir)
    model = workdir / "model"
    finished = model.exists()
    with contextlib.ExitStack() as held:
        with checked_together():
            check_config(config)
            if finished:
                _check_finished(config, model)
            else:
                if not (workdir / "config.json").is_file():
                    _refuse_other_files(workdir)
                experiment = Experiment.of(config)
        if finished:
            print(f"This run has finished: {model}")
            return model
        agree("configuration", _identity(experiment))
        agree("code version", code_version())
        with checked_together():
            if is_main_process():
                workdir.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(workdir / LOCK, "Another training runs in this folder."))
        with leaving_at_once():
            return _run(experiment, workdir, model)


def _refuse_other_files(workdir: Path) -> None:
    """Raise InputError if the folder holds more than the hidden files of a run that was killed at its start."""
    if not workdir.is_dir() or any(not path.name.startswith(".") for path in workdir.iterdir()):
        refuse_existing(workdir)


def _check_finished(config: ConfigDict, model: Path) -> None:
    """Raise InputError unless the model is of a run with this configuration and data set."""
    description = read_json(model / DESCRIPTION)
    provenance = description.get("provenance") if isinstance(description, dict) else None
    saved = provenance.get("config") if isinstance(provenance, dict) else None
    data_set = provenance.get("data_set") if isinstance(provenance, dict) else None
    if not isinstance(saved, dict) or not isinstance(data_set, dict):
        raise InputError(
            "The model in this folder is not of a training run.",
            file=model,
            hint="name another --workdir, or move the model away",
        )
    asked = plain(config)
    asked = {name: value for name, value in asked.items() if name in saved}  # a later version has more fields
    asked["data_set"] = data_set_hash(CaseStore.open(config.data))
    free = [name for name in FREE_ON_RESUME if name != "steps"]
    hint = "use the run's own configuration, or another --workdir; to train on, remove its model and validation folders"
    _check_same_run({**saved, "data_set": data_set.get("sha256")}, asked, config.data, free, hint)


def _run(experiment: Experiment, workdir: Path, model: Path) -> Path | None:
    config = experiment.config
    if is_main_process() and not (workdir / "config.json").is_file():  # from now on the folder is a run's
        _write_config(config, workdir)
    with contextlib.closing(Checkpoints(workdir / "checkpoints", config.checkpoint.keep)) as checkpoints:
        state = _first_or_latest(experiment, checkpoints)
        if is_main_process():
            _write_config(config, workdir)
        state = _train(experiment, state, checkpoints, workdir)
    done = int(state.step)
    if done < config.steps:
        saved = f"Stopped after step {done} of {config.steps} and saved in {workdir / 'checkpoints'}"
        if is_main_process():
            print(f"{saved}; the same command continues.")
        return None
    params = to_host(state.result)
    if is_main_process():
        _finish(experiment, state, params, workdir / "validation", model)
    while not model.exists():  # the other processes end with the run; should the first fail, JAX ends them
        time.sleep(1)
    return model


def _write_config(config: ConfigDict, workdir: Path) -> None:
    with atomic_file(workdir / "config.json") as path:
        path.write_text(config.to_json(indent=2) + "\n")


def _finish(experiment: Experiment, state: TrainState, params: Any, validation: Path, model: Path) -> None:
    """Score whole validation scans, if asked for, and write the model directory."""
    store = experiment.store
    by_case = None
    if experiment.config.final_validation:
        if not validation.exists():  # written whole by a run that was stopped after it
            experiment.validate_scans(params, validation, _pictures(validation.parent, int(state.step)))
        scores = read_scores(validation)["cases"]
        print(f"{len(scores)} validation scans on the prepared grid\n{score_table(scores)}")
        by_case = {case: regions[WHOLE] for case, regions in scores.items()}
    provenance = {
        "trained_by": f"mednext-jax {mednext_jax.__version__}",
        "data_set": {"name": store.meta.name, "sha256": experiment.data_set},
        "steps": int(state.step),
        "skipped_steps": int(state.skipped),
        "validation_dice": None if by_case is None else {case: row["dice"] for case, row in by_case.items()},
        "config": plain(experiment.config),
    }
    card = model_card(
        experiment.architecture,
        experiment.recipe,
        store.meta,
        training_cases=experiment.training.ids,
        steps=int(state.step),
        scores=by_case,
    )
    save_model(model, experiment.architecture, params, experiment.recipe, provenance)
    with atomic_file(model / "README.md") as path:
        path.write_text(card)


def _first_or_latest(experiment: Experiment, checkpoints: Checkpoints) -> TrainState:
    """1. the newest sound checkpoint; 2. the weights of `init_from`; 3. fresh weights."""
    asked = _identity(experiment)
    state = checkpoints.restore_newest(
        experiment.state_like, lambda saved: _check_same_run(saved, asked, experiment.store.path)
    )
    return experiment.first_state() if state is None else state


def _check_same_run(
    saved: Mapping[str, Any],
    asked: Mapping[str, Any],
    data: str,
    free: Collection[str] = FREE_ON_RESUME,
    hint: str = "use the run's own configuration, or another --workdir",
) -> None:
    """Raise InputError unless `asked` is of the run that says `saved` of itself (see `_identity`), but for `free`."""
    if saved.get("data_set") != asked["data_set"]:
        raise InputError(
            "The data set is not the one that this run started with.",
            file=data,
            hint="prepare it as it was, or start a new run in another --workdir",
        )
    changed = [name for name in asked if saved.get(name) != asked[name] and name not in free]
    if changed:
        name = changed[0]
        raise InputError(
            f"The run in this folder has another config.{', config.'.join(changed)}.",
            expected=f"{name} = {saved.get(name)}"[:500],
            found=f"{name} = {asked[name]}"[:500],
            hint=hint,
        )


def _identity(experiment: Experiment) -> dict[str, Any]:
    """What a checkpoint says about its run."""
    return {**plain(experiment.config), "data_set": experiment.data_set}


def _train(experiment: Experiment, state: TrainState, checkpoints: Checkpoints, workdir: Path) -> TrainState:
    """From `state` to the last step or a signal; a checkpoint of the returned state is on disk."""
    config = experiment.config
    first, identity = int(state.step), _identity(experiment)
    steps = Table(workdir / "steps.csv", STEP_COLUMNS, first)
    epochs = Table(workdir / "metrics.csv", EPOCH_COLUMNS, first)
    progress = Progress(first, config.steps, config.steps_per_epoch, config.batch_size)
    events = Events(workdir / "events", first)
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
        events.add("step", steps.rows[-1])
        progress.step(done, metrics["loss"], waiting.share)
        if skips >= SKIPS_TO_STOP:
            checkpoints.save(int(state.step), state, identity)
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
    trace = Trace(config.profile, workdir / "profile")
    with _stop_signal() as stopped, contextlib.closing(trace), contextlib.closing(steps), contextlib.closing(epochs):
        with contextlib.closing(progress), contextlib.closing(events):
            for step in range(first, config.steps):
                with waiting:
                    host, batch = next(ready)
                trace.before(step)
                state, metrics = experiment.train_step(state, batch)
                settle()
                pending = metrics, host["case"]
                done, score = step + 1, None
                if done % config.steps_per_epoch == 0 or done == config.steps:
                    settle()
                    row = end_of_epoch(experiment, state, steps, epochs, waiting, _pictures(workdir, done))
                    if row["patch_dice_average"] > max(
                        (r["patch_dice_average"] for r in epochs.rows), default=-math.inf
                    ):
                        score = row["patch_dice_average"]
                    epochs.add(row)
                    events.add("epoch", row)
                    progress.epoch(row)
                    if is_main_process():
                        draw_progress(epochs.rows, workdir / "progress.png")
                    waiting.reset()
                stop = stopped.is_set() or checkpoints.preempted(done)
                due = _on_all(time.monotonic() - last_save > 60 * config.checkpoint.minutes, done)
                due |= config.checkpoint.steps > 0 and done % config.checkpoint.steps == 0
                if stop or due or score is not None or done == config.steps:
                    settle()
                    checkpoints.save(done, state, identity, score)
                    last_save = time.monotonic()
                if stop:
                    break
    checkpoints.wait()
    return state


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


def _pictures(workdir: Path, done: int) -> Path:
    return workdir / "pictures" / f"step_{done}"


def _on_all(mine: bool, done: int) -> bool:
    """What the first process says, every tenth step; a process alone decides for itself at once."""
    if jax.process_count() == 1:
        return mine
    return done % 10 == 0 and bool(multihost_utils.broadcast_one_to_all(np.asarray(mine)))
