"""What is not to be taken for perivascular spaces, on the device: lesions, lacunes, bleeds, vessels, sulcal fluid."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from mednext_jax.simulate import anatomy as places
from mednext_jax.simulate import tissues
from mednext_jax.simulate.deformed_head import Anatomies, Head
from mednext_jax.simulate.generator_config import GeneratorConfig
from mednext_jax.simulate.painted_tubes import Tubes, draw_tubes, fill, most_here, share
from mednext_jax.simulate.random_fields import Draws, along_axes

_INTEGRAL = math.sqrt(2 * math.pi)
# Of the white matter, blurred, that finds the middles of sulci:
_BANKS_MM = 2.0  # the blur
_STEEPEST, _SOFT = 0.9, 0.4  # its slope over one blur, a share of itself: no sheet at this, a whole one so much below
_FAINTEST, _NEAREST = 0.02, 0.38  # where banks are near, and where one is too near


def add_look_alikes(
    draws: Draws,
    tubes: Draws,
    config: GeneratorConfig,
    anatomies: Anatomies,
    head: Head,
    image: jax.Array,
    signals: jax.Array,
    family: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The image with everything that is no perivascular space, and how much of each voxel is lesion, and lacune."""
    shape, tissue = head.tissue.shape, head.tissue
    lesion = (tissue == tissues.LESION).astype(jnp.float32)
    if not config.confounders:
        return image, lesion, jnp.zeros(shape)
    volume = math.prod(shape) / 48**3  # the counts are those of a patch of 48
    fluid, wm = signals[tissues.VENTRICLE], signals[tissues.WHITE_MATTER]
    white = head.among(tissues.WITH_PVS).astype(jnp.float32)

    def times(count: jax.Array, highest: int) -> tuple[jax.Array, int]:
        more = max(volume, 1) ** 0.75
        return jnp.round(count * more).astype(jnp.int32), math.ceil(highest * more)

    uneven = draws.smooth(shape, 4, 3)  # of the edges of each kind of blob
    # Lesions: towards fluid on T1w and T2w, brighter than everything on FLAIR.
    several = times(draws.count(config.lesions), config.lesions[1])
    spots = _blobs(draws, shape, *several, config.lesion_radius, 0.5 * uneven[0])
    spots = spots * white * draws.chance(config.lesion_share)
    near = (tissue == tissues.VENTRICLE).astype(jnp.float32)
    near = along_axes([_gaussian(n, 2.5) for n in shape], near)
    cap = jnp.clip(near * draws.uniform((1, 4)) * (1 + 0.5 * draws.smooth(shape, 6)), 0, 1)
    cap = cap * white * draws.chance(config.caps) * draws.uniform((0.2, 0.8))
    toward = jnp.where(family == tissues.FLAIR, 0.9, fluid)
    strength = draws.uniform(config.lesion_strength)
    image = image + jnp.maximum(spots, cap) * strength * (toward - image)
    lesion = jnp.maximum(lesion, jnp.maximum(spots, jnp.where(cap > 0.5, cap, 0)))
    lacune = _blobs(draws, shape, *times(draws.index(2) + 1, 2), config.lacune_radius, 0.2 * uneven[1])
    lacune = lacune * white * draws.chance(config.lacunes)
    image = image + lacune * draws.uniform((0.6, 1.0)) * (fluid - image)
    bleeds = _blobs(draws, shape, *times(draws.index(2) + 1, 2), (1.0, 3.0), 0.1 * uneven[2])
    bleeds = bleeds * draws.chance(config.microbleeds)
    image = image * (1 - 0.85 * bleeds * (tissue <= max(tissues.IN_BRAIN)))
    # Vessels: flow voids and veins on the other side of fluid from white matter, in-flow bright.
    vessels, sulci = _others(tubes, config, anatomies, head)
    solid = tissues.in_brain(tissue)
    other = jnp.clip(wm + (wm - fluid) * tubes.uniform((0.2, 1.0)), 0, 1.3)
    strength = tubes.chance(config.vessel_share) * tubes.uniform((0.3, 1.0))
    image = image + share(vessels, solid) * strength * (other - image)
    # Fluid in narrow sulci that a label map does not have: short pieces anywhere in the cortex, and whole sheets.
    filled, strong = fill(sulci, tissue == tissues.CORTEX)
    image = image + filled * strong * (fluid - image)
    opened = tubes.chance(config.sulcal_sheets) * tubes.uniform((0.3, 1.0))
    open_here = jnp.clip(0.7 + 0.6 * tubes.smooth(shape, 8), 0, 1)
    image = image + opened * open_here * fluid_between_banks(tissue) * (fluid - image)
    return image, jnp.maximum(lesion, lacune), lacune


def fluid_between_banks(tissue: jax.Array) -> jax.Array:
    """(d, h, w) in [0, 1]: how much of a voxel of 1 mm is the thin sheet of fluid in a sulcus that the map has closed.

    White matter, blurred, falls from a bank outwards, and the farther from it the more for what is left of it;
    halfway between two banks it is level.
    """
    white = (tissue == tissues.WHITE_MATTER).astype(jnp.float32)
    blurred = along_axes([_gaussian(n, _BANKS_MM) for n in tissue.shape], white)
    slope = _BANKS_MM * jnp.sqrt(sum(one**2 for one in jnp.gradient(blurred)))
    level = jnp.clip((_STEEPEST - slope / jnp.maximum(blurred, 1e-3)) / _SOFT, 0, 1)
    apart = jnp.clip((_NEAREST - blurred) / 0.1, 0, 1)
    return level * apart * (blurred > _FAINTEST) * (tissue == tissues.CORTEX)


def _blobs(
    draws: Draws,
    shape: tuple[int, ...],
    count: jax.Array,
    most: int,
    radius: tuple[float, ...],
    waves: jax.Array,
) -> jax.Array:
    """(d, h, w) in [0, 1]: the soft union of `count` blobs with uneven edges."""
    if most == 0:
        return jnp.zeros(shape)
    r = draws.uniform(radius, (most, 1)) * draws.uniform((0.5, 1.0), (most, 3))
    lines = []
    for axis, n in enumerate(shape):
        at = draws.uniform((0, n), (most,))
        lines.append(jnp.exp(-0.5 * ((jnp.arange(n) - at[:, None]) / (0.85 * r[:, axis, None])) ** 2))
    there = (jnp.arange(most) < count).astype(jnp.float32)
    total = jnp.einsum("k,kd,kh,kw->dhw", there, *lines)
    level = jnp.log(jnp.maximum(total, 1e-6)) + waves
    return jax.nn.sigmoid((level + 0.7) * draws.uniform((3, 8)))


def _gaussian(n: int, sigma: float) -> np.ndarray:
    away = np.arange(n)[:, None] - np.arange(n)
    return (np.exp(-0.5 * (away / sigma) ** 2) / (sigma * _INTEGRAL)).astype(np.float32)


def _others(draws: Draws, config: GeneratorConfig, anatomies: Anatomies, head: Head) -> list[Tubes]:
    """Vessels and narrow sulci: tubes in any direction that are no perivascular spaces."""
    counts = (config.vessels, config.sulci)
    most = [highest for _, highest in counts]
    total = sum(most)
    kind = np.repeat((places.IN_TISSUE, places.IN_CORTEX), most)
    at = head.in_patch(anatomies["places"][head.anatomy, kind, draws.index(places.PLACES, (total,))])
    tubes = draw_tubes(
        draws,
        at + draws.uniform((-0.5, 0.5), (total, 3)),
        draws.direction((total,)),
        jnp.concatenate([jnp.arange(span[1]) < draws.count(span) for span in counts]),
        width=(jnp.asarray(1.2), jnp.asarray(0.4)),
        length=(jnp.asarray(9.0), jnp.asarray(0.5)),
        width_limits=(0.5, 3.5),
        length_limits=(2.0, 30.0),
        taper=(0.5, 1.0),
        bend=0.15,
        strength=(0.3, 1.0),
    )
    shape = head.tissue.shape
    return [part.nearest(shape, most_here(len(part.length), shape, 12)) for part in tubes.split(most)]
