"""progress.png: the picture of a run that nnU-Net's users know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mednext_jax.io.atomic import atomic_file


def draw_progress(rows: Sequence[Mapping[str, float]], path: Path) -> bool:
    """Draw losses and pseudo Dice, seconds an epoch and learning rate of the rows of metrics.csv.

    Returns False, without a picture, where matplotlib (the `demo` extra) is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    epochs = [row["epoch"] for row in rows]

    def line(axis, name: str, label: str, **style):
        return axis.plot(epochs, [row[name] for row in rows], label=label, **style)

    figure = Figure(figsize=(12, 15), layout="constrained")
    losses, seconds, rate = figure.subplots(3, 1)
    dice = losses.twinx()
    lines = line(losses, "train_loss", "training loss", color="b")
    lines += line(losses, "validation_loss", "validation loss", color="r")
    lines += line(dice, "dice", "pseudo Dice", color="g", linestyle="dotted")
    lines += line(dice, "dice_average", "pseudo Dice, moving average", color="g")
    losses.legend(handles=lines)
    losses.set_ylabel("loss")
    dice.set_ylabel("pseudo Dice")
    line(seconds, "seconds", "seconds an epoch", color="b")
    seconds.set_ylabel("seconds an epoch")
    seconds.set_ylim(bottom=0)
    line(rate, "learning_rate", "learning rate", color="b")
    rate.set_ylabel("learning rate")
    for axis in (losses, seconds, rate):
        axis.set_xlabel("epoch")
    with atomic_file(path) as new:
        figure.savefig(new)
    return True
