"""The reliability curve of the model card, drawn from its table: the same bytes from the same table."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from mednext_jax.errors import InputError
from mednext_jax.evaluate.figures.figure_file import style
from mednext_jax.io.atomic import atomic_file
from tools.tables import Table

matplotlib.use("Agg")


def curves_of(table: Table) -> tuple[list[float], dict[str, list[float]]]:
    """The middle of each bin, and before and after the share of PVS there, NaN in a bin without voxels.

    Raises InputError for another table than that of `tools.calibrate_model`.
    """
    try:
        middles = [sum(map(float, row[0].split(" to "))) / 2 for row in table.rows]
        return middles, {label: [float(row[k]) for row in table.rows] for label, k in (("before", 2), ("after", 4))}
    except (ValueError, IndexError):
        raise InputError(
            "The table of bins cannot be drawn.",
            expected="probability (low to high), voxels before, PVS among them, voxels after, PVS among them after",
            found=", ".join(table.columns),
        ) from None


def draw_reliability(path: Path, table: Table) -> None:
    """The share of PVS among the voxels of each bin of probability, before and after, with the diagonal.

    Raises InputError as `curves_of`.
    """
    middles, curves = curves_of(table)
    figure = Figure(figsize=(4.4, 3.4), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="grey", lw=1, label="true probabilities")
    for number, (label, observed) in enumerate(curves.items()):
        axis.plot(middles, observed, ms=4, lw=1.2, label=f"{label} the temperature", **style(number))
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability of a voxel", ylabel="share of such voxels that is PVS")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=90, format="png", metadata={"Software": None}, pil_kwargs={"optimize": True})
