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
from mednext_jax.simulate.painted_tubes import Tubes, draw_tubes, fill, most_here
from mednext_jax.simulate.random_fields import Draws, along_axis

_INTEGRAL = math.sqrt(2 * math.pi)


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

    def times(count: jax.Array | int) -> tuple[jax.Array, int]:
        most = math.ceil(16 * max(volume, 1) ** 0.75)
        return jnp.minimum(jnp.round(count * max(volume, 1) ** 0.75).astype(jnp.int32), most), most

    # Lesions: towards fluid on T1w and T2w, brighter than everything on FLAIR.
    spots = _blobs(draws, shape, *times(draws.count(config.lesions)), config.lesion_radius, 0.5)
    spots = spots * white * draws.chance(config.lesion_share)
    near = (tissue == tissues.VENTRICLE).astype(jnp.float32)
    for axis in range(3):
        near = along_axis(_gaussian(shape[axis], 2.5), near, axis)
    cap = jnp.clip(near * draws.uniform((1, 4)) * (1 + 0.5 * draws.smooth(shape, 6)), 0, 1)
    cap = cap * white * draws.chance(config.caps) * draws.uniform((0.2, 0.8))
    toward = jnp.where(family == tissues.FLAIR, 0.9, fluid)
    strength = draws.uniform(config.lesion_strength)
    image = image + jnp.maximum(spots, cap) * strength * (toward - image)
    lesion = jnp.maximum(lesion, jnp.maximum(spots, jnp.where(cap > 0.5, cap, 0)))
    lacune = _blobs(draws, shape, *times(draws.index(2) + 1), config.lacune_radius, 0.2)
    lacune = lacune * white * draws.chance(config.lacunes)
    image = image + lacune * draws.uniform((0.6, 1.0)) * (fluid - image)
    bleeds = _blobs(draws, shape, *times(draws.index(2) + 1), (1.0, 3.0), 0.1) * draws.chance(config.microbleeds)
    image = image * (1 - 0.85 * bleeds * (tissue <= max(tissues.IN_BRAIN)))
    # Vessels: flow voids and veins on the other side of fluid from white matter, in-flow bright.
    vessels = _others(tubes, config.vessels, anatomies, head, places.IN_TISSUE)
    solid = tissues.in_brain(tissue)
    filled, _ = fill(vessels, solid)
    other = jnp.clip(wm + (wm - fluid) * tubes.uniform((0.2, 1.0)), 0, 1.3)
    image = image + filled * tubes.chance(config.vessel_share) * tubes.uniform((0.3, 1.0)) * (other - image)
    # Fluid in narrow sulci that a label map does not have.
    sulci = _others(tubes, config.sulci, anatomies, head, places.IN_CORTEX)
    filled, strong = fill(sulci, tissue == tissues.CORTEX)
    image = image + filled * strong * (fluid - image)
    return image, jnp.maximum(lesion, lacune), lacune


def _blobs(draws: Draws, shape: tuple[int, ...], count: jax.Array, most: int, radius: tuple[float, ...], waves: float):
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
    level = jnp.log(jnp.maximum(total, 1e-6)) + waves * draws.smooth(shape, 4)
    return jax.nn.sigmoid((level + 0.7) * draws.uniform((3, 8)))


def _gaussian(n: int, sigma: float) -> np.ndarray:
    away = np.arange(n)[:, None] - np.arange(n)
    return (np.exp(-0.5 * (away / sigma) ** 2) / (sigma * _INTEGRAL)).astype(np.float32)


def _others(draws: Draws, counts: tuple[int, ...], anatomies: Anatomies, head: Head, kind: int) -> Tubes:
    """Tubes in any direction that are no perivascular spaces."""
    most = counts[1]
    at = head.in_patch(anatomies["places"][head.anatomy, kind, draws.index(places.PLACES, (most,))])
    tubes = draw_tubes(
        draws,
        at + draws.uniform((-0.5, 0.5), (most, 3)),
        draws.direction((most,)),
        jnp.arange(most) < draws.count(counts),
        width=(jnp.full(most, 1.2), jnp.asarray(0.4)),
        length=(jnp.full(most, 9.0), jnp.asarray(0.5)),
        width_limits=(0.5, 3.5),
        length_limits=(2.0, 30.0),
        taper=(0.5, 1.0),
        bend=0.15,
        strength=(0.3, 1.0),
    )
    return tubes.nearest(head.tissue.shape, most_here(most, head.tissue.shape, 12))
