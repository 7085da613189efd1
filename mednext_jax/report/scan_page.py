"""The page of one scan: viewer, mosaics, regions, sizes, clusters, how they were made, and what to be careful about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mednext_jax.errors import Problem
from mednext_jax.io.geometry import voxel_volume
from mednext_jax.quantify.members import ENTROPY, SD_FOLDS, SD_MIRRORS
from mednext_jax.report.charts import HATCH, region_bars, size_histogram
from mednext_jax.report.measured import BOTH, REMARKS, Measured, TableRow, is_whole, number, numbers, remarks
from mednext_jax.report.mosaic import EDGES, choose_slices, tile_svg
from mednext_jax.report.page import data_block, facts, how_to_cite, key_figures, link, section, text, write_page
from mednext_jax.report.predicted import PredictedScan
from mednext_jax.report.scan_files import ScanFiles
from mednext_jax.report.sortable_table import compact, short, sortable_table
from mednext_jax.report.view_volume import MAP_TOPS, ViewVolume, fitted, inner_voxels, packed, view_volume

PAGE_LIMIT = 15 * 10**6  # bytes
MOSAICS = {"axial": 12, "coronal": 6, "sagittal": 6}
RESERVE = 2**16
VIEWER_KEYS = (
    ("Arrow keys", "move the cross in the plane"),
    ("Page Up, Page Down, wheel", "next slice"),
    ("N, P", "next, previous PVS of the table"),
    ("+, −", "zoom"),
)
MAP_TITLES = {
    SD_FOLDS: "SD of the probability between models",
    SD_MIRRORS: "SD of the probability between mirrors",
    ENTROPY: "entropy of the probability (bit)",
}
# Columns that come first, if they are there; the others follow in the table's own order.
FIRST = ("cluster", "region", "hemisphere", "volume_mm3", "length_mm", "width_mm", "probability_mean", "remarks")
RATED = ("basal ganglia", "centrum semiovale", "midbrain")  # regions with a visual score


def write_scan_page(
    path: Path, scan: PredictedScan, files: ScanFiles, measured: Measured, group: str | None, made_from: str
) -> None:
    """Write the page; at most `PAGE_LIMIT` bytes. group: relative path of the group's page.

    Raises OSError; nothing is left half-written if `path` is a temporary file of io.atomic.
    """
    volume = view_volume(files.scan, files.probability, measured.labels, files.maps)
    sections = {
        "Warnings": _warnings(files.problems),
        "Viewer": "",
        "Mosaics": _mosaics(volume, measured.small),
        "Regions": _regions(measured),
        "Sizes": _sizes(measured, volume),
        "PVS": _clusters(measured, volume),
        "How it was made": section("made", "How it was made", facts(_made(scan, files, measured))),
        "Cite": how_to_cite(),
    }
    head = _head(scan, files, measured, group)
    used = len(head.encode()) + sum(len(part.encode()) for part in sections.values()) + RESERVE
    volume = fitted(volume, PAGE_LIMIT - used)
    sections["Viewer"] = _viewer(volume, measured)
    write_page(path, f"Perivascular spaces: {scan.case}", head, sections, ("table.js", "viewer.js"), made_from)


def _head(scan: PredictedScan, files: ScanFiles, measured: Measured, group: str | None) -> str:
    whole = measured.whole
    volumes = numbers(measured.counted, "volume_mm3")
    figures = [("PVS", short(whole, "count") or str(len(measured.counted)), _counted(whole))]
    if whole.get("count_all", "") not in ("", whole.get("count")):
        figures.append(("Clusters of any size", short(whole, "count_all"), ""))
    figures.append(("Volume", short(whole, "volume_mm3"), "mm³"))
    for name, quantity, end, of in (("Expected PVS", "count", "", ""), ("Expected volume", "volume", "_mm3", "mm³, ")):
        if number(whole, f"{quantity}_low{end}") is not None:
            low, high = (short(whole, f"{quantity}_{side}{end}") for side in ("low", "high"))
            said = f"{of}95 % interval {low} to {high} over models and mirrors"
            figures.append((name, short(whole, f"{quantity}_expected{end}"), said))
    if volumes:
        figures.append(("Median size", compact(float(np.median(volumes))), "mm³"))
        figures.append(("Largest", compact(max(volumes)), "mm³"))
    if number(whole, "length_total_mm") is not None:
        figures.append(("Total length", short(whole, "length_total_mm"), "mm"))
    if number(whole, "density_per_ml") is not None:
        figures.append(("Density", short(whole, "density_per_ml"), "per mL"))
    for row in measured.regions:
        if row.get("region") in RATED and row.get("hemisphere", "") in BOTH and row.get("potter"):
            figures.append((f"Potter, {row['region']}", row["potter"], row.get("wardlaw", "")))
    up = f'<p><a href="{link(group)}">All scans</a></p>' if group else ""
    name = f"{scan.image.name}, " if scan.image is not None else ""
    return f'<p class="sub">{text(name + files.described)}</p>{up}{key_figures(figures)}'


def _counted(whole: TableRow) -> str:
    """Which clusters are counted."""
    least = number(whole, "min_voxels")
    sizes = "clusters" if least is None else f"clusters of at least {least:.0f} voxel{'s' * (least != 1)}"
    if (mm3 := number(whole, "min_mm3")) is not None and mm3 > 0:
        sizes += f" and {compact(mm3)} mm³"
    return sizes


def _warnings(problems: Sequence[Problem]) -> str:
    if not problems:
        return section("warnings", "Warnings", "<p>None. That does not replace a look at the images.</p>")
    items = []
    for problem in problems:
        more = [
            f"{name} {value}." for name, value in (("Expected", problem.expected), ("Found", problem.found)) if value
        ]
        more += [f"{problem.hint[0].upper()}{problem.hint[1:]}."] if problem.hint else []
        items.append(f"<li><strong>{text(problem.what)}</strong> {text(' '.join(more))}</li>")
    return section("warnings", "Warnings", f'<ul class="warnings">{"".join(items)}</ul>')


def _viewer(volume: ViewVolume, measured: Measured) -> str:
    """The controls, a canvas a plane, and the voxels."""
    about = {
        "shape": volume.shape,
        "voxelSize": volume.voxel_size,
        "affine": volume.affine.tolist(),
        "toFile": (np.linalg.inv(measured.labels.affine) @ volume.affine).tolist(),
        "labelBytes": volume.clusters.itemsize,
        "small": sorted(measured.small),
        "scan": volume.scan is not None,
        "probability": volume.probability is not None,
        "maps": [{"name": name, "title": MAP_TITLES[name], "top": MAP_TOPS[name]} for name in volume.maps],
    }
    panes = "".join(
        f'<figure class="pane" data-plane="{plane}">'
        f'<canvas tabindex="0" role="img" aria-label="{plane} slice"></canvas>'
        f'<figcaption><label for="slice-{plane}">{plane.capitalize()}</label>'
        f'<input type="range" id="slice-{plane}" min="0" step="1" value="0"></figcaption></figure>'
        for plane in EDGES
    )
    keys = "; ".join(f"<kbd>{text(key)}</kbd> {text(what)}" for key, what in VIEWER_KEYS)
    shown = "Probability"
    if volume.maps:
        titles = {"probability": "Probability"} | {name: MAP_TITLES[name] for name in volume.maps}
        options = "".join(f'<option value="{name}">{text(title)}</option>' for name, title in titles.items())
        shown = f'<select data-do="map" aria-label="Map that is laid over the scan">{options}</select>'
    disabled = "" if volume.probability is not None else " disabled"
    blocks = "".join(
        f'<script type="text/plain" id="voxels-{name}">{packed(array)}</script>'
        for name, array in (
            ("scan", volume.scan),
            ("probability", volume.probability),
            ("clusters", volume.clusters),
            *volume.maps.items(),
        )
        if array is not None
    )
    body = (
        '<noscript><p class="empty">The viewer needs JavaScript, which this browser does not run. The mosaics below '
        "show the scan without it.</p></noscript>"
        '<div class="viewer" hidden>'
        f'<div class="panes">{panes}</div>'
        '<output class="here" aria-live="polite"></output>'
        '<div class="controls">'
        '<button type="button" data-do="previous">Previous PVS</button>'
        '<button type="button" data-do="next">Next PVS</button>'
        '<button type="button" data-do="in" aria-label="Zoom in">+</button>'
        '<button type="button" data-do="out" aria-label="Zoom out">−</button>'
        '<label><input type="checkbox" data-show="outlines" checked> Outlines</label>'
        f'<label><input type="checkbox" data-show="probability"{disabled}> {shown}</label>'
        '<label><input type="checkbox" data-show="cross" checked> Cross</label>'
        '<label>Darkest <input type="range" data-window="low" min="0" max="254" value="0"></label>'
        '<label>Brightest <input type="range" data-window="high" min="1" max="255" value="255"></label>'
        '<label>Convention <select data-do="convention"><option value="radiological">radiological (R at the left)'
        '</option><option value="neurological">neurological (L at the left)</option></select></label>'
        '<span class="scale-bar" hidden><span class="of">Probability</span> 0 '
        '<canvas width="96" height="10" role="img" '
        'aria-label="Colours of the map, from dark for 0 to bright"></canvas> <span class="top">1</span></span>'
        "</div>"
        f'<p class="keys">{keys}. A click in a picture moves the cross; a click on a row of the table of PVS jumps '
        f"there. {text(_reduced(volume))}</p></div>"
    )
    return section("viewer", "Viewer", body) + data_block("viewer-about", about) + blocks


def _reduced(volume: ViewVolume) -> str:
    said = []
    if max(volume.reduced) > 1:
        size = " × ".join(f"{mm:.2f}" for mm in volume.voxel_size)
        said.append(f"The page shows voxels of {size} mm, averages of those of the file, so that it stays small.")
    if volume.levels < 256:
        said.append(f"It shows {volume.levels} grey levels.")
    return " ".join(said)


def _mosaics(volume: ViewVolume, small: set[int]) -> str:
    parts = [
        "<p>Radiological convention: the subject's right is at the left of axial and coronal slices; the front is at "
        "the left of sagittal ones. The head is cut into slabs; of each, the slice with most PVS is shown. Places are "
        "in mm of the scanner's coordinates, the bar is 20 mm."
        f"{' Thin outlines are clusters that are too small to count.' if small else ''}</p>"
    ]
    axis = {"axial": "z", "coronal": "y", "sagittal": "x"}
    for plane, count in MOSAICS.items():
        tiles = []
        for tile in choose_slices(volume, plane, count, small):
            where = f"{axis[plane]} {tile.mm:+.0f} mm".replace("-", "−")
            name = f"{plane.capitalize()} slice at {where}, {tile.count} PVS outlined. Show it in the viewer."
            tiles.append(
                f'<li><button type="button" class="tile" data-plane="{plane}" data-index="{tile.index}" '
                f'data-of="{" ".join(map(str, volume.shape))}" aria-label="{name}">{tile_svg(volume, tile, small)}'
                f'<span>{where} <span class="muted">· {tile.count} PVS</span></span></button></li>'
            )
        parts.append(f'<h3>{plane.capitalize()}</h3><ul class="mosaic">{"".join(tiles)}</ul>')
    return section("mosaics", "Mosaics", "".join(parts))


def _regions(measured: Measured) -> str:
    table = sortable_table(measured.regions, "Regions", measured.dictionary)
    parts = [row for row in measured.regions if not is_whole(row)]
    sided = {row.get("region") for row in parts if row.get("hemisphere", "") not in BOTH}
    charts = ""
    for column, quantity in (("count", "PVS"), ("volume_mm3", "volume of PVS (mm³)"), ("density_per_ml", "PVS per mL")):
        bars = [
            (row.get("region", ""), row.get("hemisphere", ""), value)
            for row in parts
            if (value := number(row, column)) is not None
            and (row.get("hemisphere", "") not in BOTH or row.get("region") not in sided)
        ]
        if any(value for *_, value in bars):
            charts += f"<figure>{region_bars(bars, quantity)}</figure>"
    none = "<p>Counted over the whole scan; there was no map of regions.</p>" if not parts else ""
    return section(
        "regions", "Regions", none + table + (f'{HATCH}<div class="charts">{charts}</div>' if charts else "")
    )


def _sizes(measured: Measured, volume: ViewVolume) -> str:
    volumes = [v for v in numbers(measured.clusters, "volume_mm3") if v > 0]
    if not volumes:
        return section("sizes", "Sizes", '<p class="empty">There are no PVS to show the sizes of.</p>')
    voxel = voxel_volume(measured.labels.affine)
    single = sum(v < 1.5 * voxel for v in volumes)
    part = f"{single} of {len(volumes)} clusters ({single / len(volumes):.0%})"
    said = f"<p>{part} are one voxel ({compact(voxel)} mm³).</p>"
    return section("sizes", "Sizes", f"{said}<figure>{size_histogram(volumes, voxel)}</figure>")


def _clusters(measured: Measured, volume: ViewVolume) -> str:
    places = inner_voxels(volume.clusters, volume.affine)
    shape = " ".join(map(str, volume.shape))

    def name(row: TableRow) -> str:
        label = text(row["cluster"])
        return f'<button type="button" class="jump" aria-label="Show PVS {label}">{label}</button>'

    def attributes(row: TableRow) -> str:
        label = number(row, "cluster")
        at = places.get(int(label)) if label is not None else None
        flagged = ' class="flagged"' if row.get("remarks") else ""
        where = f' data-at="{" ".join(map(str, at))}" data-of="{shape}"' if at else ""
        return f'{flagged} data-cluster="{text(row["cluster"])}"{where}'

    rows = [_ordered(row) for row in measured.clusters if "cluster" in row]
    rows.sort(key=lambda row: -(number(row, "volume_mm3") or 0))
    how = "<p>Counted by this report from the mask, without regions.</p>" if measured.counted_here else ""
    search = (
        '<p class="search"><label>Rows that hold <input type="search" data-filter="clusters-table"></label> '
        '<output data-count="clusters-table"></output></p>'
    )
    table = sortable_table(rows, "PVS, the largest first", measured.dictionary, name, attributes)
    return section("pvs", "PVS", f'{how}{search if rows else ""}<div id="clusters-table">{table}</div>')


def _ordered(row: TableRow) -> TableRow:
    """The row as it is shown: the first columns first, remarks in words."""
    told = {name: value for name, value in row.items() if name not in REMARKS and name != "counted"}
    told["remarks"] = "; ".join(remarks(row))
    return {name: told[name] for name in (*(n for n in FIRST if n in told), *(n for n in told if n not in FIRST))}


def _made(scan: PredictedScan, files: ScanFiles, measured: Measured) -> list[tuple[str, object]]:
    record: Mapping[str, Any] = scan.record
    rows: list[tuple[str, object]] = [("Scan", scan.image or "not found"), ("Mask", scan.mask.name)]
    rows += files.facts
    models = record.get("models")
    for model in models if isinstance(models, list) else ():
        if isinstance(model, dict):
            rows.append(("Model", f"{model.get('path')}, SHA-256 {model.get('sha256')}"))
    for name, key in (
        ("Threshold of the probability", "threshold"),
        ("Mirrored axes (averaged)", "mirror_axes"),
        ("Tile step", "step"),
        ("Background", "background"),
        ("Brain masks", "brain_masks"),
        ("Tables", "tables"),
        ("Software", "software"),
        ("Device", "device"),
    ):
        if record.get(key) is not None:
            rows.append((name, _said(record[key])))
    if overlap := measured.whole.get("regions_overlap"):
        rows.append(("Overlap of the brain with that of the regions", f"{overlap} (Dice)"))
    if scan.volumes.get("seconds"):
        rows.append(("Time for the scan", f"{scan.volumes['seconds']} s"))
    return rows


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items() if v is not None)
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)
