"""Where the tubes of one brain lie: how many, how wide and long, along which direction, with room around each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from mednext_jax.errors import InputError
from mednext_jax.simulate.deform import Deformation, VoxelGrid
from mednext_jax.simulate.template import BASAL_GANGLIA, BRAINSTEM, HIPPOCAMPUS, WHITE_MATTER, Template
from mednext_jax.simulate.tubes import Tube

_MARGIN_MM = 2.0  # from a middle line to the edge of white matter and basal ganglia together (Bernal 2022)
_GAP_MM = 2.0  # between the surfaces of two tubes, so that each stays a cluster of its own
_CANDIDATES = 48  # places tried at once for a tube
_ROUNDS = 6
_STEP_MM = 0.5  # spacing of the points that stand for a middle line
# Where the lenticulostriate arteries enter (anterior perforated substance), MNI mm, right side.
_ENTRY = np.array([20.0, 4.0, -18.0])
_COUNTS = ("white_matter", "basal_ganglia", "hippocampus", "brainstem")
# Unit directions (n, 3) that vessels take at positions (n, 3) in mm of a region.
Outward = Callable[[np.ndarray, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class PvsDistribution:
    """The asked statistics of a subject's perivascular spaces; each pair is a range.

    Counts are drawn log-uniformly (0 allowed only as (0, 0)). Width (wide end) and length are drawn between the
    bounds on a log scale with the Beta densities below, medians about 1.4 mm and 6 mm with tails to both ends; a
    tube is at least 1.7 times as long as wide. Sources: ranges of Bernal 2022 (Magn Reson Imaging 93:33) and
    Ballerini 2018 (Sci Rep 8:2132).
    """

    white_matter: tuple[int, int] = (20, 400)
    basal_ganglia: tuple[int, int] = (2, 60)
    hippocampus: tuple[int, int] = (0, 0)  # not in the template's regions
    brainstem: tuple[int, int] = (0, 0)  # not in the template's regions
    width_mm: tuple[float, float] = (0.5, 3.0)
    length_mm: tuple[float, float] = (1.0, 20.0)
    width_beta: tuple[float, float] = (3.2, 2.4)
    length_beta: tuple[float, float] = (2.0, 2.4)
    taper: tuple[float, float] = (0.5, 1.0)  # diameter of the tip / of the wide end
    elongation: float = 1.7
    bend_degrees: float = 25.0  # standard deviation for a tube of 10 mm
    jitter_degrees: float = 12.0  # standard deviation about the radial direction

    def __post_init__(self) -> None:
        for name in (*_COUNTS, "width_mm", "length_mm", "taper"):
            low, high = getattr(self, name)
            lowest = 0 if name in _COUNTS else 0.05
            if not lowest <= low <= high or (low == 0 < high):
                raise InputError(
                    f"The range {name} of the simulated perivascular spaces is wrong.",
                    expected=f"two numbers, {lowest} <= low <= high",
                    found=(low, high),
                )
        if self.width_mm[1] * self.elongation > self.length_mm[1]:
            raise InputError(
                "The widest perivascular space could not be longer than wide.",
                expected=f"length_mm up to at least {self.elongation} x width_mm",
                found=f"width_mm up to {self.width_mm[1]}, length_mm up to {self.length_mm[1]}",
            )


@dataclasses.dataclass(frozen=True)
class Placed:
    """A tube and the region (1 white matter, 2 basal ganglia, 3 hippocampus, 4 brainstem) it lies in."""

    tube: Tube
    region: int


class Room:
    """The free space of one brain: regions, distance to their edge, and what lies there already."""

    def __init__(self, regions: np.ndarray, grid: VoxelGrid):
        self.regions, self.grid = regions, grid
        self.depth = np.zeros(regions.shape, np.float32)  # mm to the edge of all regions together
        for extent in ndimage.find_objects((regions > 0).astype(np.uint8)):
            box = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in extent)  # a rim of background is the edge
            self.depth[box] = ndimage.distance_transform_edt(regions[box] > 0, sampling=grid.spacing)
        self._taken = np.zeros((0, 3))
        self._radius = np.zeros(0)

    def places(self, region: int, depth: float) -> np.ndarray:
        """Flat indices of the voxels of a region that lie at least `depth` mm from the edge."""
        return np.flatnonzero((self.regions == region) & (self.depth >= depth))

    def positions(self, flat: np.ndarray) -> np.ndarray:
        """Positions (n, 3) in mm of flat voxel indices."""
        return np.stack(np.unravel_index(flat, self.regions.shape), -1) * self.grid.spacing + self.grid.origin

    def fits(self, lines: np.ndarray, region: int, depth: float) -> np.ndarray:
        """Which lines (k, n, 3) in mm lie wholly in the region, `depth` mm from the edge: bool (k,)."""
        voxels = self.grid.voxels(lines)
        inside = np.all((voxels >= 0) & (voxels < self.grid.shape), axis=-1)
        index = tuple(np.moveaxis(np.where(inside[..., None], voxels, 0), -1, 0))
        good = inside & (self.regions[index] == region) & (self.depth[index] >= depth)
        return good.all(axis=-1)

    def free(self, line: np.ndarray, radius: float, gap: float) -> bool:
        """Whether everything already there keeps `gap` mm from the surface around a line (n, 3)."""
        if not len(self._taken):
            return True
        reach = radius + gap + self._radius.max()
        near = np.all((self._taken > line.min(0) - reach) & (self._taken < line.max(0) + reach), axis=1)
        if not near.any():
            return True
        distance, _ = cKDTree(line).query(self._taken[near])
        return bool(np.all(distance > radius + gap + self._radius[near]))

    def take(self, line: np.ndarray, radius: float) -> None:
        """Mark the space within `radius` mm of a line (n, 3) as taken."""
        self._taken = np.concatenate([self._taken, line])
        self._radius = np.concatenate([self._radius, np.full(len(line), radius)])


def place_tubes(rng: np.random.Generator, asked: PvsDistribution, room: Room, outward: Outward) -> list[Placed]:
    """Draw the tubes of one brain, the longest first; one that finds no room in some 300 places is left out.

    A tube points along `outward`, with jitter. Shapes are drawn before places, so that their statistics are the asked
    ones.
    """
    placed = []
    # The small regions first: they have the least room.
    for region, counts in (
        (HIPPOCAMPUS, asked.hippocampus),
        (BRAINSTEM, asked.brainstem),
        (BASAL_GANGLIA, asked.basal_ganglia),
        (WHITE_MATTER, asked.white_matter),
    ):
        shapes = _draw_shapes(rng, asked, _log_uniform_count(rng, counts))
        inner = room.places(region, _MARGIN_MM)
        for width, length, taper, bend in shapes:
            tube = _place(rng, asked, room, outward, region, inner, width, length, taper, bend)
            if tube is not None:
                room.take(tube.points(_STEP_MM), width / 2)
                placed.append(Placed(tube, region))
    return sorted(placed, key=lambda p: p.region)


def _log_uniform_count(rng: np.random.Generator, counts: tuple[int, int]) -> int:
    low, high = counts
    if high == 0:
        return 0
    return int(np.clip(np.floor(low * ((high + 1) / low) ** rng.uniform()), low, high))


def _draw_shapes(rng: np.random.Generator, asked: PvsDistribution, count: int) -> np.ndarray:
    """(count, 4): width, length in mm, taper, bend in radians; the longest first."""
    width = _between(asked.width_mm[0], asked.width_mm[1], rng.beta(*asked.width_beta, count))
    shortest = np.maximum(asked.length_mm[0], asked.elongation * width)
    length = _between(shortest, asked.length_mm[1], rng.beta(*asked.length_beta, count))
    taper = rng.uniform(*asked.taper, count)
    bend = np.abs(rng.normal(0, np.radians(asked.bend_degrees), count)) * length / 10
    shapes = np.stack([width, length, taper, np.clip(bend, 1e-3, np.pi / 3)], 1)
    return shapes[np.argsort(-length, kind="stable")]


def _between(low: np.ndarray | float, high: float, share: np.ndarray) -> np.ndarray:
    return low * (high / low) ** share


def _place(
    rng: np.random.Generator,
    asked: PvsDistribution,
    room: Room,
    outward: Outward,
    region: int,
    inner: np.ndarray,
    width: float,
    length: float,
    taper: float,
    bend: float,
) -> Tube | None:
    if not len(inner):
        return None
    flat = Tube(np.zeros(3), np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), length, width, width * taper, bend)
    arc = flat.points(_STEP_MM)[:, :2]
    for _ in range(_ROUNDS):
        middle = room.positions(rng.choice(inner, _CANDIDATES))
        middle += rng.uniform(-0.5, 0.5, middle.shape) * room.grid.spacing
        direction = outward(middle, region)
        direction = _unit(direction + np.radians(asked.jitter_degrees) * rng.standard_normal(direction.shape))
        direction *= rng.choice([-1, 1], (len(direction), 1))  # the wide end may be either
        across = _unit(np.cross(direction, rng.standard_normal(direction.shape)))
        # Set off half the bend to one side, so that the tube as a whole points along `direction`.
        setting_off = np.cos(bend / 2) * direction - np.sin(bend / 2) * across
        towards = np.sin(bend / 2) * direction + np.cos(bend / 2) * across
        lines = arc @ np.stack([setting_off, towards], 1)  # (candidates, n, 3)
        start = middle - lines[:, len(arc) // 2]
        lines += start[:, None]
        for k in np.flatnonzero(room.fits(lines, region, _MARGIN_MM)):
            if room.free(lines[k], width / 2, _GAP_MM):
                return dataclasses.replace(flat, start=start[k], direction=setting_off[k], towards=towards[k])
    return None


def template_directions(template: Template, deformation: Deformation) -> Outward:
    """Vessels of a deformed template: away from the lateral ventricle in white matter; in the basal ganglia away from
    where the lenticulostriate arteries enter."""

    def outward(positions: np.ndarray, region: int) -> np.ndarray:
        voxels = deformation.to_template(positions)
        if region == BASAL_GANGLIA:
            mni = voxels + template.origin
            entry = _ENTRY * np.stack([np.sign(mni[:, 0]), np.ones(len(mni)), np.ones(len(mni))], 1)
            return deformation.directions(mni - entry)
        index = np.clip(np.rint(voxels).astype(int), 0, np.array(template.brain.shape) - 1)
        return deformation.directions(template.from_ventricle[:, *index.T].T)

    return outward


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
