"""Pictures of a run: progress.png, which nnU-Net's users know, and predictions of validation cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mednext_jax.errors import shown
from mednext_jax.io.atomic import atomic_file


def draw_progress(rows: Sequence[Mapping[str, float]], path: Path) -> bool:
    """Draw losses and patch Dice, seconds per epoch and learning rate of the rows of metrics.csv.

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
    lines += line(dice, "patch_dice", "patch Dice", color="g", linestyle="dotted")
    lines += line(dice, "patch_dice_average", "patch Dice, moving average", color="g")
    losses.legend(handles=lines)
    losses.set_ylabel("loss")
    dice.set_ylabel("patch Dice")
    line(seconds, "seconds", "seconds per epoch", color="b")
    seconds.set_ylabel("seconds per epoch")
    seconds.set_ylim(bottom=0)
    line(rate, "learning_rate", "learning rate", color="b")
    rate.set_ylabel("learning rate")
    for axis in (losses, seconds, rate):
        axis.set_xlabel("epoch")
    with atomic_file(path) as new:
        figure.savefig(new)
    return True


# Of hits, false alarms and misses: told apart with any colour vision (Okabe and Ito).
COLOURS = {"found": (0.0, 0.62, 0.45), "false alarm": (0.9, 0.6, 0.0), "missed": (0.34, 0.71, 0.91)}


def draw_case(image: np.ndarray, label: np.ndarray, found: np.ndarray, title: str, path: Path) -> bool:
    """Draw the slice along the first axis with the most labelled voxels, as it is and with labels and findings marked.

    `image` (d, h, w, c), of which the first channel is drawn; `label` and `found` (d, h, w), foreground above 0.
    Returns False, without a picture, where matplotlib (the `demo` extra) is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    true, said = label > 0, found > 0
    depth = int(np.argmax((true if true.any() else said).sum((1, 2))))
    plane, true, said = image[depth, :, :, 0], true[depth], said[depth]
    low, high = np.percentile(plane, (0.5, 99.5))
    grey = np.repeat(((plane - low) / max(high - low, 1e-6)).clip(0, 1)[..., None], 3, axis=-1)  # (h, w, 3)
    marked = grey.copy()
    for colour, where in zip(COLOURS.values(), (true & said, said & ~true, true & ~said), strict=True):
        marked[where] = colour
    figure = Figure(figsize=(12, 6.5), layout="constrained")
    for axis, picture in zip(figure.subplots(1, 2), (grey, marked), strict=True):
        axis.imshow(picture, origin="lower", interpolation="nearest")  # h runs from back to front
        axis.set_axis_off()
    figure.suptitle(shown(title), parse_math=False)  # a $ in a name is no formula
    for place, (name, colour) in zip((0.35, 0.5, 0.65), COLOURS.items(), strict=True):
        figure.text(place, 0.01, name, color=colour, ha="center", weight="bold")
    with atomic_file(path) as new:
        figure.savefig(new)
    return True
