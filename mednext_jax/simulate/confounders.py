"""What may be taken for a perivascular space: white matter hyperintensities, lacunes and sulci.

Each is a share of the way from the tissue's signal to that of cerebrospinal fluid, as the perivascular spaces are.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import ndimage

from mednext_jax.simulate.deform import Deformation, VoxelGrid
from mednext_jax.simulate.placement import Room
from mednext_jax.simulate.template import BASAL_GANGLIA, WHITE_MATTER, Template


@dataclasses.dataclass(frozen=True)
class Blob:
    """An ellipsoid with a soft edge."""

    centre: np.ndarray  # (3,) mm
    axes: np.ndarray  # (3, 3) rows: unit axis / semi-axis in mm
    reach: float  # mm, longest semi-axis
    softness: float  # width of the edge as a share of the radius
    strength: float  # share of the way to fluid in the middle


def draw_hyperintensities(
    rng: np.random.Generator, room: Room, template: Template, deformation: Deformation, strength: tuple[float, float]
) -> list[list[Blob]]:
    """3 to 25 lesions, each of 4 to 8 overlapping soft ellipsoids of 1 to 5 mm, denser near the ventricles."""
    places = room.places(WHITE_MATTER, 2.0)
    places = rng.choice(places, min(4000, len(places)))
    voxels = np.rint(deformation.to_template(room.positions(places))).astype(int)
    voxels = np.clip(voxels, 0, np.array(template.brain.shape) - 1)
    from_ventricle = np.linalg.norm(template.from_ventricle[:, *voxels.T], axis=0)
    weight = np.exp(-from_ventricle / 6) + 0.02
    lesions = []
    for place in rng.choice(places, int(3 * (26 / 3) ** rng.uniform()), p=weight / weight.sum()):
        centre, size = room.positions(np.array([place]))[0], rng.uniform(1.5, 4.5)
        value = rng.uniform(*strength)
        lesions.append(
            [
                _blob(rng, centre + rng.normal(0, 0.6 * size, 3), size * rng.uniform(0.6, 1.2), 1.0, value)
                for _ in range(rng.integers(4, 9))
            ]
        )
    return lesions


def draw_lacunes(rng: np.random.Generator, room: Room, strength: tuple[float, float]) -> list[Blob]:
    """0 to 4 sharp ovoids of 3 to 10 mm, filled with fluid; their space is taken, so that no tube crosses one."""
    lacunes = []
    for _ in range(min(rng.poisson(1.0), 4)):
        size = 1.5 * (10 / 3) ** rng.beta(1, 2.5)
        region = rng.choice([WHITE_MATTER, BASAL_GANGLIA])
        places = room.places(region, min(size, 4.0))
        if not len(places):
            continue
        centre = room.positions(rng.choice(places, 1))
        if room.free(centre, size, 1.0):
            room.take(centre, size)
            lacunes.append(_blob(rng, centre[0], size, 0.1, rng.uniform(*strength)))
    return lacunes


def _blob(rng: np.random.Generator, centre: np.ndarray, size: float, softness: float, strength: float) -> Blob:
    axes = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    semi = size * np.array([1.0, rng.uniform(0.6, 0.95), rng.uniform(0.6, 0.95)])
    return Blob(centre, axes / semi[:, None], size, softness, strength)


def paint_lesion(signal: np.ndarray, lesion: list[Blob], grid: VoxelGrid, fluid: float) -> None:
    """Move `signal` (x, y, z) on `grid` towards that of fluid, at each place as far as the strongest blob says."""
    reach = np.array([[blob.reach * (1 + blob.softness)] for blob in lesion])
    centres = np.stack([blob.centre for blob in lesion])
    low = np.clip(grid.voxels((centres - reach).min(0)), 0, grid.shape)
    high = np.clip(grid.voxels((centres + reach).max(0)) + 1, 0, grid.shape)
    axes = [grid.origin[a] + grid.spacing[a] * np.arange(low[a], high[a]) for a in range(3)]
    positions = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    share = np.zeros(positions.shape[:3], np.float32)
    for blob in lesion:
        radius = np.linalg.norm((positions - blob.centre) @ blob.axes.T, axis=-1)
        np.maximum(share, blob.strength * np.clip(0.5 + (1 - radius) / blob.softness, 0, 1), out=share)
    part = signal[tuple(slice(*ends) for ends in zip(low, high, strict=True))]
    part += share * (np.float32(fluid) - part)


def draw_sulci(rng: np.random.Generator, template: Template) -> np.ndarray:
    """A subject's own sulci on the template's grid: share of fluid, float32 (x, y, z).

    Winding sheets about 1.5 mm thick, the zero surfaces of a smooth random field, kept where the cortex is: a group
    average has lost the sulci that differ between people.
    """
    noise = rng.standard_normal(tuple(-(-n // 2) for n in template.brain.shape), np.float32)
    smooth = ndimage.gaussian_filter(noise, 2.5)
    smooth = smooth.repeat(2, 0).repeat(2, 1).repeat(2, 2)[tuple(slice(n) for n in template.brain.shape)]
    smooth = ndimage.uniform_filter(smooth, 3)
    slope = np.sqrt(sum(g * g for g in np.gradient(smooth))) + 1e-3 * smooth.std()
    distance = np.abs(smooth) / slope  # mm
    return np.clip(1.25 - distance, 0, 1) * np.clip(2 * template.cortex - 0.6, 0, 1)
