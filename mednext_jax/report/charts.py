"""Charts as SVG inside the page: histogram, bars, points with a line, groups with means.

Left and right, groups and lines differ by pattern and shape as well as by colour; each chart has its content in words.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np

from mednext_jax.report.page import text
from mednext_jax.report.sortable_table import compact

WIDTH, HEIGHT = 640, 300
BINS = 24
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 50
# Above this, points are one path without links, and a chart of 10,000 scans stays small.
LINKED_POINTS = 400
FAR_QUARTILES = 8.0  # times the quartiles' distance above the third
NAME_LENGTH, LETTER = 32, 7.5  # of a region: letters that are shown, and the width of one
BOXED = 5  # values that quartiles say something of
# Ticks of a logarithmic axis.
DECADES = tuple(factor * 10.0**power for power in range(-6, 10) for factor in (1, 2, 5))

# What fills the right's bars; once on a page.
HATCH = (
    '<svg class="defined" width="0" height="0" aria-hidden="true"><defs><pattern id="hatch" width="6" height="6" '
    'patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect class="hatch-ground" width="6" height="6"/>'
    '<path class="hatch-line" d="M0 0V6"/></pattern></defs></svg>'
)


def svg(body: str, described: str, height: float = HEIGHT) -> str:
    """A chart with its content in words for who does not see it."""
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{text(described)}">{body}</svg>'


def size_histogram(volumes: Sequence[float], voxel_volume: float) -> str:
    """Clusters by volume in mm3, on a logarithmic axis; the voxel's own volume is marked."""
    values = np.asarray(volumes)
    # Edges between whole numbers of voxels, else bins that no cluster can fall into look like gaps.
    most_voxels = max(values.max() / voxel_volume, 4)
    edges = (np.unique(np.geomspace(1, most_voxels, BINS).round()) - 0.5) * voxel_volume
    edges = np.append(edges, (most_voxels + 0.5) * voxel_volume)
    low, high = edges[0], edges[-1]
    counts = np.histogram(values, edges)[0]
    most = int(counts.max())
    x = _log_axis(low, high)
    y = _scale(0, most * 1.05, HEIGHT - BOTTOM, TOP)
    bars = "".join(
        f'<rect class="bar" x="{x(a):.1f}" y="{y(n):.1f}" width="{x(b) - x(a) - 1:.1f}" height="{y(0) - y(n):.1f}">'
        f"<title>{compact(a)} to {compact(b)} mm³: {n}</title></rect>"
        for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)
        if n
    )
    at = x(voxel_volume)
    mark = (
        f'<path class="mark" d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
        f'<text class="small" x="{at + 4:.1f}" y="{TOP + 10}">one voxel</text>'
    )
    ticks = [t for t in DECADES if low <= t <= high]
    axes = _x_axis([(x(t), _plain(t)) for t in ticks], "volume of a cluster (mm³, logarithmic)") + _y_axis(
        [(y(t), f"{t:g}") for t in _nice(0, most, whole=True)], "clusters"
    )
    quartiles = np.percentile(values, (25, 50, 75))
    words = (
        f"Histogram of {len(values)} clusters by volume: from {compact(values.min())} to {compact(values.max())} mm³, "
        f"median {compact(quartiles[1])}, half of them from {compact(quartiles[0])} to {compact(quartiles[2])} mm³."
    )
    return svg(axes + bars + mark, words)


def region_bars(bars: Sequence[tuple[str, str, float]], quantity: str) -> str:
    """Horizontal bars of (region, hemisphere, value), in the order given; left is plain, right has `HATCH`."""
    line, gap = 20, 4
    names = [_cut(r if side in ("", "both", "n/a") else f"{r}, {side}", NAME_LENGTH) for r, side, _ in bars]
    room = 16 + LETTER * max(map(len, names), default=0)
    height = TOP + len(bars) * (line + gap) + BOTTOM
    most = max((value for *_, value in bars), default=0) or 1
    x = _scale(0, most, room, WIDTH - 70)
    parts = []
    for i, ((_, hemisphere, value), name) in enumerate(zip(bars, names, strict=True)):
        top = TOP + i * (line + gap)
        kind = "bar right" if hemisphere.startswith("r") else "bar"
        parts.append(
            f'<text x="{room - 8}" y="{top + 15}" text-anchor="end">{text(name)}</text>'
            f'<rect class="{kind}" x="{room}" y="{top}" width="{max(x(value) - room, 0):.1f}" height="{line}"/>'
            f'<text class="value" x="{x(value) + 6:.1f}" y="{top + 15}">{text(_value(value))}</text>'
        )
    base = height - BOTTOM
    axes = "".join(
        f'<path class="grid" d="M{x(t):.1f} {TOP}V{base}"/>'
        f'<text x="{x(t):.1f}" y="{base + 16}" text-anchor="middle">{_plain(t)}</text>'
        for t in _nice(0, most)
    )
    axes += f'<text x="{(room + WIDTH - 70) / 2:.0f}" y="{base + 38}" text-anchor="middle">{text(quantity)}</text>'
    words = f"{quantity} by region: " + "; ".join(f"{r} {h} {_value(v)}".replace("  ", " ") for r, h, v in bars)
    return svg(axes + "".join(parts), words, height)


def distribution(
    groups: Sequence[tuple[str, Sequence[float]]], quantity: str, means: Sequence[tuple[float, float, float]] = ()
) -> str:
    """The values of each (group, values) as points beside each other, with a box of quartiles and the median.

    means: of each group its mean and the ends of its interval, drawn as a diamond with a line.
    """
    every = [value for _, values in groups for value in values]
    most = axis_end(every)
    low, high = _padded(min(every), most)
    y = _scale(low, high, HEIGHT - BOTTOM, TOP)
    step = (WIDTH - LEFT - RIGHT) / len(groups)
    parts, ticks = [], []
    for i, (name, values) in enumerate(groups):
        centre = LEFT + step * (i + 0.5)
        ticks.append((centre, f"{_wrapped(name, max(6, int(step / 7)))}\n({len(values)})"))
        half = min(60, step * 0.3)
        q1, q2, q3 = (y(q) for q in np.percentile(values, (25, 50, 75)))
        box = (
            f'<rect class="box" x="{centre - half:.1f}" y="{q3:.1f}" width="{2 * half:.1f}" height="{q1 - q3:.1f}"/>'
            if len(values) >= BOXED
            else ""
        )
        spread = np.random.default_rng(0).uniform(-0.6 * half, 0.6 * half, len(values))
        places = list(zip(spread, values, strict=True))
        parts.append(_points([(centre + dx, y(v)) for dx, v in places if v <= most]))
        parts.append(_beyond([centre + dx for dx, v in places if v > most]))
        parts.append(f'{box}<path class="median" d="M{centre - half:.1f} {q2:.1f}h{2 * half:.1f}"/>')
        if means:
            mean, start, stop = (y(min(max(v, low), high)) for v in means[i])
            at = centre + half + 10
            parts.append(
                f'<path class="mean" d="M{at:.1f} {start:.1f}V{stop:.1f}M{at - 5:.1f} {mean:.1f}l5 -5 5 5 -5 5z"/>'
            )
    axes = _x_axis(ticks, "") + _y_axis([(y(t), _plain(t)) for t in _nice(low, high)], quantity)
    words = f"{quantity}: " + "; ".join(
        f"{name}: {len(v)} scans, median {compact(float(np.median(v)))}, from {compact(min(v))} to {compact(max(v))}"
        for name, v in groups
    )
    return svg(axes + "".join(parts), words + _said_beyond(every, most))


def scatter(
    x_values: Sequence[float],
    y_values: Sequence[float],
    names: tuple[str, str],
    line: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    described: str,
    links: Sequence[tuple[str, str]] = (),
) -> str:
    """Points with a line and its interval. line: x, y, lower and upper ends; links: (address, title) of each point."""
    at, fit, lower, upper = line
    low_x, high_x = _padded(min(x_values), max(x_values))
    most = axis_end(y_values)
    # A band that is wide at its ends does not squeeze the points.
    spread = most - min(y_values) or 1.0
    low_y = max(min(*y_values, lower.min()), min(y_values) - 0.3 * spread)
    low_y, high_y = _padded(low_y, min(max(most, upper.max()), most + 0.3 * spread))
    x, y = _scale(low_x, high_x, LEFT, WIDTH - RIGHT), _scale(low_y, high_y, HEIGHT - BOTTOM, TOP)

    def path(values: np.ndarray, order: slice = slice(None)) -> list[str]:
        clipped = np.clip(values, low_y, high_y)
        return [f"{x(a):.1f} {y(b):.1f}" for a, b in zip(at[order], clipped[order], strict=True)]

    band = "L".join(path(upper) + path(lower, slice(None, None, -1)))
    inside = [value <= most for value in y_values]
    places = [(x(a), y(b)) for a, b, shown in zip(x_values, y_values, inside, strict=True) if shown]
    links = [link for link, shown in zip(links, inside, strict=True) if shown] if links else links
    beyond = _beyond([x(a) for a, shown in zip(x_values, inside, strict=True) if not shown])
    body = (
        f'<path class="band" d="M{band}z"/>'
        + _x_axis([(x(t), _plain(t)) for t in _nice(low_x, high_x)], names[0])
        + _y_axis([(y(t), _plain(t)) for t in _nice(low_y, high_y)], names[1])
        + f'<path class="fit" d="M{"L".join(path(fit))}"/>'
        + _points(places, links)
        + beyond
    )
    return svg(body, described + _said_beyond(y_values, most))


def axis_end(values: Sequence[float]) -> float:
    """The largest value that an axis shows: a few that are very far off would leave no room for all others."""
    if len(values) < BOXED:
        return max(values)
    q1, q3 = np.percentile(values, (25, 75))
    return max(value for value in values if value <= q3 + FAR_QUARTILES * (q3 - q1))


def _beyond(places: Sequence[float]) -> str:
    """A triangle at the top for each point above the axis."""
    marks = "".join(f"M{x - 5:.1f} {TOP + 9}l5 -9 5 9z" for x in places)
    return f'<path class="beyond" d="{marks}"/>' if marks else ""


def _said_beyond(values: Sequence[float], most: float) -> str:
    count = sum(value > most for value in values)
    return f" Beyond the axis, as triangles at the top: {count}." if count else ""


def _points(places: Sequence[tuple[float, float]], links: Sequence[tuple[str, str]] = ()) -> str:
    if len(places) > LINKED_POINTS or not links:
        return f'<path class="points" d="{"".join(f"M{x:.1f} {y:.1f}h0" for x, y in places)}"/>'
    parts = []
    for (x, y), (address, title) in zip(places, links, strict=True):
        point = f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{text(title)}</title></circle>'
        # For the mouse; a keyboard reaches the same pages by the table of scans.
        parts.append(f'<a href="{address}" tabindex="-1">{point}</a>' if address else point)
    return "".join(parts)


def _x_axis(ticks: Sequence[tuple[float, str]], name: str) -> str:
    base = HEIGHT - BOTTOM
    marks = "".join(
        f'<path class="tick" d="M{x:.1f} {base}v5"/>'
        + "".join(
            f'<text x="{x:.1f}" y="{base + 18 + 14 * i}" text-anchor="middle">{text(line)}</text>'
            for i, line in enumerate(t.split("\n"))
        )
        for x, t in ticks
    )
    title = f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 10}" text-anchor="middle">{text(name)}</text>'
    return f'<path class="axis" d="M{LEFT} {base}H{WIDTH - RIGHT}"/>{marks}{title}'


def _y_axis(ticks: Sequence[tuple[float, str]], name: str) -> str:
    marks = "".join(
        f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
        f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text(t)}</text>'
        for y, t in ticks
    )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    title = f'<text transform="translate(14 {middle:.0f}) rotate(-90)" text-anchor="middle">{text(name)}</text>'
    return marks + title


def _scale(low: float, high: float, start: float, stop: float):
    return lambda value: start + (value - low) / (high - low) * (stop - start)


def _log_axis(low: float, high: float):
    scale = _scale(math.log(low), math.log(high), LEFT, WIDTH - RIGHT)
    return lambda value: scale(math.log(value))


def _padded(low: float, high: float) -> tuple[float, float]:
    more = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return (0.0 if 0 <= low < 0.3 * high else low - more), high + more


def _nice(low: float, high: float, whole: bool = False) -> list[float]:
    """Four to nine round numbers from low to high."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough)
    step = max(1.0, step) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _plain(value: float) -> str:
    return f"{value:,.10g}".replace(",", " ") if abs(value) < 1e7 else f"{value:.1e}"


def _value(value: float) -> str:
    return f"{value:g}" if value == int(value) and abs(value) < 1e6 else compact(value)


def _wrapped(name: str, length: int) -> str:
    """The name on at most two lines of so many letters."""
    if len(name) <= length:
        return name
    first, *others = textwrap.wrap(name, length)
    return _cut(first, length) + ("\n" + _cut(" ".join(others), length) if others else "")


def _cut(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
