"""The loop of a training: step, validate, save."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from mednext_jax.data.batches import batches, to_devices
from mednext_jax.parallel.mesh import over_samples
from mednext_jax.train.checkpoint import Checkpoints
from mednext_jax.train.epoch import end_of_epoch
from mednext_jax.train.experiment import Experiment
from mednext_jax.train.late_metrics import LateMetrics, NotFiniteError
from mednext_jax.train.records import Records
from mednext_jax.train.state import TrainState
from mednext_jax.train.stop import on_all, stop_signal


def run_steps(
    experiment: Experiment, state: TrainState, checkpoints: Checkpoints, identity: dict[str, Any], workdir: Path
) -> TrainState:
    """From `state` to the last step or a signal; a checkpoint of the returned state, with `identity`, is on disk."""
    config, first = experiment.config, int(state.step)
    read = batches(experiment.training, first, config.steps, part=experiment.reads, threads=config.threads)
    ready = to_devices(read, over_samples(experiment.mesh))
    last_save = time.monotonic()
    with stop_signal() as stopped, contextlib.closing(Records(workdir, first, config)) as records:
        late = LateMetrics(records.add_step, experiment.training.ids)
        try:
            for done in range(first + 1, config.steps + 1):
                with records.waiting:
                    host, batch = next(ready)
                records.trace.before(done - 1)
                state, metrics = experiment.train_step(state, batch)
                late.put(metrics, host["case"])
                score = None
                if done % config.steps_per_epoch == 0 or done == config.steps:
                    late.settle()
                    row = end_of_epoch(
                        experiment, state, records.steps, records.epochs, records.waiting, pictures_of(workdir, done)
                    )
                    score = records.add_epoch(row)
                stop = stopped.is_set() or checkpoints.preempted(done)
                due = on_all(time.monotonic() - last_save > 60 * config.checkpoint.minutes, done)
                due |= config.checkpoint.steps > 0 and done % config.checkpoint.steps == 0
                if stop or due or score is not None or done == config.steps:
                    late.settle()
                    checkpoints.save(done, state, identity, score)
                    last_save = time.monotonic()
                if stop:
                    break
        except NotFiniteError:
            checkpoints.save(int(state.step), state, identity)
            checkpoints.wait()
            raise
    checkpoints.wait()
    return state


def pictures_of(workdir: Path, done: int) -> Path:
    """The folder of the pictures of validation scans after `done` steps."""
    return workdir / "pictures" / f"step_{done}"
