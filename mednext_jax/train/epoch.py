"""The end of an epoch: patch Dice on validation patches, now and then whole scans, and a row of metrics."""

from __future__ import annotations

import math
from pathlib import Path

import jax
import numpy as np

from mednext_jax.data.batches import batches, to_devices
from mednext_jax.evaluate.case import WHOLE
from mednext_jax.parallel.mesh import over_samples
from mednext_jax.train.experiment import Experiment, to_host
from mednext_jax.train.log import Stopwatch, Table
from mednext_jax.train.state import TrainState


def end_of_epoch(
    experiment: Experiment, state: TrainState, steps: Table, epochs: Table, waiting: Stopwatch, pictures: Path
) -> dict[str, float]:
    """The row of metrics.csv for the epoch that ends at `state.step`; the rows before it are in `epochs`.

    Where whole scans are validated, some are drawn into the folder `pictures`.
    """
    config, done = experiment.config, int(state.step)
    epoch = (done - 1) // config.steps_per_epoch
    rows = [row for row in steps.rows if row["step"] > epoch * config.steps_per_epoch]
    training_seconds, wait = waiting.total, waiting.share
    loss, dice = validate_patches(experiment, state, epoch)
    before = epochs.rows[-1]["patch_dice_average"] if epochs.rows else math.nan
    # nnU-Net's exponential average of the patch Dice, by which the best epoch is chosen.
    average = dice if math.isnan(before) else before if math.isnan(dice) else 0.9 * before + 0.1 * dice
    every = config.scan_validation_epochs
    return {
        "step": done,
        "epoch": epoch + 1,
        "train_loss": float(np.mean([row["loss"] for row in rows])),
        "validation_loss": loss,
        "patch_dice": dice,
        "patch_dice_average": average,
        "scan_dice": _scan_dice(experiment, state, pictures) if every and (epoch + 1) % every == 0 else math.nan,
        "learning_rate": rows[-1]["learning_rate"],
        "skipped": rows[-1]["skipped"],
        "seconds": waiting.total,
        "samples_per_second": len(rows) * config.batch_size / training_seconds,
        "data_wait": wait,
    }


def validate_patches(experiment: Experiment, state: TrainState, epoch: int) -> tuple[float, float]:
    """Mean loss and patch Dice over this epoch's validation patches.

    The patch Dice (nnU-Net's pseudo Dice) adds up voxels over all patches before dividing, and averages over the
    classes that occur. A third of the patches or more lies around foreground, so it says which epoch is better, not
    how well whole scans are segmented. NaN without validation patches or foreground.
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
    sizes = 2 * true + found_wrong + missed
    occurs = sizes > 0
    dice = 2 * true[occurs] / sizes[occurs]
    return float(np.mean([r["loss"] for r in host])), float(np.mean(dice)) if occurs.any() else math.nan


def _scan_dice(experiment: Experiment, state: TrainState, pictures: Path) -> float:
    scores = experiment.validate_scans(to_host(state.result), pictures=pictures)
    whole = [regions[WHOLE]["dice"] for regions in scores.values()]
    defined = [dice for dice in whole if not math.isnan(dice)]
    return float(np.mean(defined)) if defined else math.nan
