"""How true length and width of clusters are: drawn tubes of known course, over their width in voxels.

    python -m tools.tube_errors

Each tube is an arc of even width and random pose, drawn into a mask (voxels that it fills by half or more) and measured
as `quantify` measures clusters. Prints a Markdown table: for each voxel size and each width in voxels, and for all
widths together, the share of tubes that stay one piece, the median error of the length in % and of the width in voxels
(over those pieces), with the median of their magnitudes, and how far a direction's median length lies from that of all.
docs/measures.md shows it.
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np

from mednext_jax.measure.clusters import ClusterVoxels, label_clusters
from mednext_jax.measure.shape import Shapes, measure_shapes
from mednext_jax.simulate.deform import VoxelGrid
from mednext_jax.simulate.tubes import Tube, partial_volume

VOXELS_MM = (0.5, 0.8, 1.0)
WIDTHS = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0)  # in voxels
LENGTHS_MM = (5.0, 8.0, 15.0)
BENDS = (0.0, 0.7, 1.5)  # radians from end to end
DIRECTIONS = np.array([(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 1, 1), (2, 1, 0), (1, 2, 3)], float)


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A tube as a mask: how many pieces it fell into, and the shape of the largest (None: no voxel)."""

    pieces: int
    length: float
    width: float
    shape: Shapes | None


def draw(
    random: np.random.Generator, length: float, width: float, bend: float, spacing: np.ndarray, direction: np.ndarray
) -> Drawn:
    """A tube of this length, width and bend at a random place on the grid and turned at random about its direction."""
    direction = direction / np.linalg.norm(direction)
    across = np.cross(direction, random.normal(size=3))
    start = random.uniform(0, 1, 3) * spacing
    tube = Tube(start, direction, across / np.linalg.norm(across), length, width, width, max(bend, 1e-3))
    reach = tube.points(0.5)
    low = np.floor((reach.min(0) - width) / spacing) - 1
    high = np.ceil((reach.max(0) + width) / spacing) + 1
    grid = VoxelGrid(tuple(int(n) for n in high - low + 1), spacing, low * spacing)
    voxels, share = partial_volume(tube, grid)
    mask = np.zeros(grid.shape, bool)
    mask[tuple(voxels[share >= 0.5].T)] = True
    labels, count = label_clusters(mask)
    if not count:
        return Drawn(0, length, width, None)
    largest = np.bincount(labels.ravel())[1:].argmax() + 1
    shape = measure_shapes(ClusterVoxels.of((labels == largest).astype(np.int32), 1, grid.affine))
    return Drawn(count, length, width, shape)


def draw_many(voxel: float, width: float, repeats: int, seed: int = 0) -> dict[int, list[Drawn]]:
    """Tubes of `width` mm on voxels of `voxel` mm, by the number of their direction."""
    random = np.random.default_rng(seed)
    spacing = np.full(3, voxel)
    return {
        number: [
            draw(random, length, width, bend, spacing, direction)
            for length in LENGTHS_MM
            for bend in BENDS
            for _ in range(repeats)
            if length >= 2 * width
        ]
        for number, direction in enumerate(DIRECTIONS)
    }


@dataclasses.dataclass(frozen=True)
class Errors:
    """Errors of tubes in one piece. whole: their share. length: relative; width: voxels; between_directions: the
    largest difference of a direction's median relative length from that of all."""

    whole: float
    length: np.ndarray
    width: np.ndarray
    between_directions: float


def errors_of(tubes: dict[int, list[Drawn]], voxel: float) -> Errors:
    """The errors of `draw_many`."""
    one_piece = {n: [t for t in drawn if t.pieces == 1] for n, drawn in tubes.items()}
    length = {n: np.array([t.shape.length[0] / t.length - 1 for t in kept if t.shape]) for n, kept in one_piece.items()}
    width = [(t.shape.width[0] - t.width) / voxel for kept in one_piece.values() for t in kept if t.shape]
    everything = np.concatenate([*length.values()])
    middle = np.median(everything)
    bias = max((abs(np.median(e) - middle) for e in length.values() if len(e)), default=np.nan)
    total = sum(len(drawn) for drawn in tubes.values())
    return Errors(len(everything) / total, everything, np.array(width), float(bias))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="poses of each length, bend and direction")
    options = parser.parse_args()
    heads = ("voxel, mm", "width, voxels", "width, mm", "one piece", "error of the length, %", "its magnitude")
    heads += ("error of the width, voxels", "its magnitude", "between directions")
    print(f"| {' | '.join(heads)} |\n| {' | '.join('---' for _ in heads)} |")
    for voxel in VOXELS_MM:
        by_width = {width: draw_many(voxel, width * voxel, options.repeats) for width in WIDTHS}
        for width, tubes in by_width.items():
            print(_row(f"{voxel:g}", f"{width:g}", f"{width * voxel:.2g}", errors_of(tubes, voxel)), flush=True)
        every = {n: [tube for tubes in by_width.values() for tube in tubes[n]] for n in range(len(DIRECTIONS))}
        print(_row(f"{voxel:g}", "all", "all", errors_of(every, voxel)), flush=True)


def _row(voxel: str, voxels: str, mm: str, found: Errors) -> str:
    length, width = 100 * found.length, found.width
    cells = [voxel, voxels, mm, f"{found.whole:.0%}"]
    if len(length):
        cells += [f"{np.median(length):+.1f}", f"{np.median(np.abs(length)):.1f}"]
        cells += [f"{np.median(width):+.2f}", f"{np.median(np.abs(width)):.2f}"]
        cells += [f"{100 * found.between_directions:.1f} %"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
