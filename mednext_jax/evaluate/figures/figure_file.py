"""Matplotlib, if it is installed, and one look for all figures: readable in black and white, saved as PNG and SVG."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mednext_jax.errors import shown

# Colour-blind safe (Okabe and Ito); each with its own marker and line for black and white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))
DPI = 150
NO_MATPLOTLIB = "no figures: matplotlib is not installed (pip install 'mednext-jax[evaluate]')"
# Text stays text in an SVG, and the same numbers give the same bytes.
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mednext-jax",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 9,
    "figure.constrained_layout.use": True,
}


def has_matplotlib() -> bool:
    """Whether figures can be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


@contextlib.contextmanager
def figure(folder: Path, name: str, rows: int, columns: int, size: tuple[float, float]) -> Iterator[tuple[Any, Any]]:
    """Yield (figure, axes (rows, columns)) of `size` in inches; then write folder/name.png and .svg."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS):
        drawn = Figure(figsize=size)
        FigureCanvasAgg(drawn)
        yield drawn, drawn.subplots(rows, columns, squeeze=False)
        folder.mkdir(exist_ok=True)
        drawn.savefig(folder / f"{name}.png", dpi=DPI)
        drawn.savefig(folder / f"{name}.svg", metadata={"Date": None})


def style(number: int) -> dict[str, Any]:
    """Colour, marker and line of the tool of that number."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": LINES[number % len(LINES)],
    }


def title_of(name: str) -> str:
    """A name as a figure may show it: no control characters, not too long, and two dollar signs are no formula."""
    text = shown(name)
    return (text if len(text) <= 40 else f"{text[:39]}…").replace("$", r"\$")
