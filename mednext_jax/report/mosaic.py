"""Slices side by side, each a grey picture with the clusters' outlines, left and right, its place in mm and a scale."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import numpy as np
from nibabel.affines import apply_affine

from mednext_jax.report.png import data_address, grey_png
from mednext_jax.report.view_volume import ViewVolume

# Axes of the picture (across, up) and the one that the slices are cut along, of a volume to right, anterior, superior.
PLANES = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}
# What is at the left, right, top and bottom edge. Radiological: the subject's right is at the picture's left.
EDGES = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}
MAX_WIDTH = 256  # pixels of a picture; larger ones are halved
SCALE_MM = 20
# Slices at the ends of the head show little: this part is left out at either end.
ENDS = 0.08
APART_MM = 4.0  # at least, of two neighbours: nearer ones show the same PVS


@dataclasses.dataclass(frozen=True)
class Tile:
    """One slice: its index in the volume, mm along the axis it is cut along, and how many clusters it cuts."""

    plane: str
    index: int
    mm: float
    count: int


def choose_slices(volume: ViewVolume, plane: str, count: int, small: Collection[int] = ()) -> list[Tile]:
    """The head in `count` slabs along an axis, and of each the slice that cuts most clusters, else its middle one.

    A slice nearer than `APART_MM` to that of the slab before is left to it, if the slab has others.
    small: clusters that do not count.
    """
    across, up, along = PLANES[plane]
    length = volume.shape[along]
    edges = np.unique(np.linspace(length * ENDS, length * (1 - ENDS), count + 1).round().astype(int))
    index = np.argwhere(_split(volume.clusters, small)[0])
    pairs = np.unique(np.stack([index[:, along], volume.clusters[tuple(index.T)]], 1), axis=0)
    cut = np.bincount(pairs[:, 0].astype(int), minlength=length)
    apart = round(APART_MM / volume.voxel_size[along])
    tiles: list[Tile] = []
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        if tiles:
            start = min(max(start, tiles[-1].index + apart), stop - 1)
        part = cut[start:stop]
        at = int(start + (np.argmax(part) if part.any() else (stop - start) // 2))
        centre = [(n - 1) / 2 for n in volume.shape]
        centre[along] = at
        tiles.append(Tile(plane, at, float(apply_affine(volume.affine, centre)[along]), int(cut[at])))
    return tiles


def tile_svg(volume: ViewVolume, tile: Tile, small: Collection[int] = ()) -> str:
    """The slice as an SVG picture, in mm, with the letters of its edges and a scale of 20 mm.

    small: clusters whose outlines are thin.
    """
    across, up, along = PLANES[tile.plane]
    grey, clusters = (_picture(a, tile) for a in (volume.background, volume.clusters))
    sizes = volume.voxel_size
    width, height = grey.shape[1] * sizes[across], grey.shape[0] * sizes[up]
    left, right, top, _ = tuple(EDGES[tile.plane])
    outline = ""
    for part, kind in zip(_split(clusters, small), ("outline", "outline small"), strict=True):
        if path := outline_path(part, sizes[across], sizes[up]):
            outline += f'<path class="casing" d="{path}"/><path class="{kind}" d="{path}"/>'
    middle = f"{height / 2:.1f}"
    letters = "".join(
        f'<text x="{x}" y="{y}" text-anchor="{anchor}">{letter}</text>'
        for letter, x, y, anchor in (
            (left, "3", middle, "start"),
            (right, f"{width - 3:.1f}", middle, "end"),
            (top, f"{width / 2:.1f}", "12", "middle"),
        )
    )
    scale = f"M3 {height - 4:.1f}h{SCALE_MM}"
    return (
        f'<svg viewBox="0 0 {width:.1f} {height:.1f}" aria-hidden="true" focusable="false">'
        f'<image href="{data_address(grey_png(_smaller(grey)))}" width="{width:.1f}" height="{height:.1f}" '
        f'preserveAspectRatio="none"/>{outline}<path class="scale" d="{scale}"/>{letters}</svg>'
    )


def outline_path(labels: np.ndarray, width: float, height: float) -> str:
    """The borders between pixels (rows, columns) of different clusters, and of clusters and the rest, as an SVG path.

    width, height: of a pixel.
    """
    padded = np.pad(labels, 1)
    lines = []
    for down in (False, True):
        field = padded.T if down else padded
        border = field[1:] != field[:-1]  # between one row and the next
        starts = border & ~np.pad(border, ((0, 0), (1, 0)))[:, :-1]
        stops = border & ~np.pad(border, ((0, 0), (0, 1)))[:, 1:]
        for (row, start), (_, stop) in zip(np.argwhere(starts), np.argwhere(stops), strict=True):
            length = stop - start + 1
            if down:
                lines.append(f"M{_mm(row * width)} {_mm((start - 1) * height)}v{_mm(length * height)}")
            else:
                lines.append(f"M{_mm((start - 1) * width)} {_mm(row * height)}h{_mm(length * width)}")
    return "".join(lines)


def _split(labels: np.ndarray, small: Collection[int]) -> tuple[np.ndarray, np.ndarray]:
    """The labels of clusters that count, and of those that are too small to."""
    is_small = np.zeros(int(labels.max(initial=0)) + 1, bool)
    is_small[[label for label in small if label < len(is_small)]] = True
    there = is_small[labels]
    return np.where(there, 0, labels), np.where(there, labels, 0)


def _mm(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _picture(array: np.ndarray, tile: Tile) -> np.ndarray:
    """A slice as rows from the top, the subject's right (sagittal: front) at the left."""
    across, up, along = PLANES[tile.plane]
    return np.moveaxis(array, along, 0)[tile.index].T[::-1, ::-1]


def _smaller(pixels: np.ndarray) -> np.ndarray:
    while pixels.shape[1] > MAX_WIDTH:
        height, width = (n // 2 * 2 for n in pixels.shape)
        halves = pixels[:height, :width].reshape(height // 2, 2, width // 2, 2)
        pixels = np.rint(halves.mean((1, 3))).astype(np.uint8)
    return pixels
