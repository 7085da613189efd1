"""Mosaics: which slice, its sides, its outlines, its picture."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest

from mednext_jax.report.mosaic import PLANES, Tile, choose_slices, outline_path, tile_svg
from mednext_jax.report.png import grey_png
from mednext_jax.report.view_volume import ViewVolume

pytestmark = pytest.mark.core


def volume_of(labels, sizes=(1.0, 1.0, 2.0)):
    scan = np.arange(labels.size, dtype=np.int64).reshape(labels.shape) % 200
    affine = np.diag([*sizes, 1.0])
    affine[:3, 3] = -10, -20, -30
    return ViewVolume(scan.astype(np.uint8), None, labels, affine, (0, 1))


def lines(path):
    """(x, y, length, vertical) of each line of a path."""
    return [
        (float(x), float(y), float(n), way == "v") for x, y, way, n in re.findall(r"M(\S+?) (\S+?)([hv])([\d.]+)", path)
    ]


def test_outlines_run_around_clusters_and_between_them():
    labels = np.zeros((6, 7), int)
    labels[1:3, 2:5] = 1
    labels[3, 2] = 2  # touches the first from below
    found = lines(outline_path(labels, 2.0, 3.0))
    around = np.pad(labels, 1)
    across = sum(int((around[1:] != around[:-1]).sum()) * 2.0 for _ in (0,))
    down = int((around[:, 1:] != around[:, :-1]).sum()) * 3.0
    assert sum(n for *_, n, vertical in found if not vertical) == across
    assert sum(n for *_, n, vertical in found if vertical) == down
    assert (4.0, 3.0, 6.0, False) in found  # the top of the first: row 1, columns 2 to 4
    assert (4.0, 3.0, 9.0, True) in found  # its left side, and the second's
    assert outline_path(np.zeros((3, 3), int), 1, 1) == ""


def test_each_slab_shows_its_slice_with_most_clusters():
    labels = np.zeros((20, 20, 50), np.uint16)
    labels[5, 5, 30], labels[8, 8, 30], labels[5, 5, 29] = 1, 2, 1
    tiles = choose_slices(volume_of(labels), "axial", 4)
    assert len(tiles) == 4
    assert [(t.index, t.count, t.mm) for t in tiles if t.count] == [(30, 2, 30.0)]  # -30 + 2 * 30
    assert all(a.index < b.index for a, b in zip(tiles[:-1], tiles[1:], strict=True))


def test_neighbouring_slabs_do_not_show_the_same_place_twice():
    labels = np.zeros((20, 20, 60), np.uint16)
    labels[5, 5, 28:32] = 1  # across the border of two slabs
    labels[9, 9, 34] = 2
    at = [tile.index for tile in choose_slices(volume_of(labels, (1.0, 1.0, 1.0)), "axial", 2)]
    assert at == [28, 34]
    assert len(choose_slices(volume_of(labels, (1.0, 1.0, 1.0)), "axial", 40)) == 40  # thinner than they may be apart


@pytest.mark.parametrize(
    ("plane", "voxel", "left", "top"),
    [
        ("axial", (18, 18, 5), True, True),  # the subject's right and front
        ("axial", (1, 1, 5), False, False),
        ("coronal", (18, 5, 8), True, True),  # right and up
        ("sagittal", (5, 18, 8), True, True),  # front and up
        ("sagittal", (5, 1, 1), False, False),
    ],
)
def test_right_is_at_the_left_front_and_top_are_up(plane, voxel, left, top):
    labels = np.zeros((20, 20, 10), np.uint16)
    labels[voxel] = 1
    volume = volume_of(labels)
    svg = tile_svg(volume, Tile(plane, voxel[PLANES[plane][2]], 0.0, 1))
    width, height = map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', svg).groups())
    path = lines(re.search(r'class="outline" d="([^"]+)"', svg)[1])
    assert (np.mean([x for x, *_ in path]) < width / 2) == left
    assert (np.mean([y for _, y, *_ in path]) < height / 2) == top
    letters = {letter: float(x) for x, letter in re.findall(r'<text x="([\d.]+)"[^>]*>([RLAP])<', svg)}
    first, last = ("A", "P") if plane == "sagittal" else ("R", "L")
    assert letters[first] < letters[last]


def test_the_picture_is_the_slice():
    image = pytest.importorskip("matplotlib.image")
    labels = np.zeros((30, 20, 10), np.uint16)
    volume = volume_of(labels)
    svg = tile_svg(volume, Tile("axial", 4, 0.0, 0))
    png = base64.b64decode(re.search(r"base64,([^\"]+)", svg)[1])
    pixels = image.imread(io.BytesIO(png))
    assert (np.rint(pixels * 255) == volume.scan[::-1, ::-1, 4].T).all()
    assert 'class="outline"' not in svg
    wide = np.random.default_rng(0).integers(0, 255, (3, 700)).astype(np.uint8)
    assert (np.rint(image.imread(io.BytesIO(grey_png(wide))) * 255) == wide).all()
