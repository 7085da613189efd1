"""Training patches made on the device from label maps: a head deformed, painted, scanned, normalised, with its truth.

One jittable function of (key, anatomies); nothing is read, and nothing but the anatomies is kept between patches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mednext_jax.data.transforms import affine_matrix
from mednext_jax.simulate import anatomy as places
from mednext_jax.simulate import tissues
from mednext_jax.simulate.device_scanner import draw_scanner
from mednext_jax.simulate.generator_config import GeneratorConfig
from mednext_jax.simulate.painted_tubes import Tubes, draw_tubes, fill
from mednext_jax.simulate.random_fields import Draws, along_axis, unit

BACKGROUND, PVS, LESION, IGNORED = 0, 1, 2, 3  # labels
WHOLE_BRAIN_MM3 = 1.2e6
_NUCLEI_LENGTH = 0.6  # of the median length, for tubes in the basal ganglia, hippocampus and midbrain
_ELASTIC_MM, _EDGE_MM = 16, 8
_INTEGRAL = math.sqrt(2 * math.pi)
Anatomies = Mapping[str, jax.Array]  # the arrays of `anatomy.stacked`


class Head(NamedTuple):
    """The deformed head of a patch. tissue (d, h, w): the nearest one."""

    tissue: jax.Array
    corners: tuple[jax.Array, ...]  # tissues of the eight voxels around each place
    weights: tuple[jax.Array, ...]
    from_edge: jax.Array  # mm, > 0 in the brain
    anatomy: jax.Array  # its index
    matrix: jax.Array  # patch -> anatomy
    centre: jax.Array  # of the patch, in the anatomy
    displacement: jax.Array  # (d, h, w, 3)

    def signal(self, of_tissue: jax.Array) -> jax.Array:
        """(d, h, w): a value of each tissue, mixed at their borders."""
        mixed = jnp.zeros(self.tissue.shape)
        for weight, corner in zip(self.weights, self.corners, strict=True):
            mixed = mixed + weight * of_tissue[corner]
        return mixed

    def in_patch(self, voxels: jax.Array) -> jax.Array:
        """Places (m, 3) of the anatomy in the patch's voxels."""
        middle = (jnp.array(self.tissue.shape) - 1) / 2
        back = jnp.linalg.inv(self.matrix)
        target = voxels - self.centre
        at = target @ back.T + middle
        for _ in range(2):  # the displacement is smooth and small
            index = jnp.clip(jnp.round(at).astype(jnp.int32), 0, jnp.array(self.tissue.shape) - 1)
            at = (target - self.displacement[tuple(index.T)]) @ back.T + middle
        return at


class Patch(NamedTuple):
    """What the generator makes. image, label (d, h, w); filled: share of a voxel that is perivascular space."""

    image: jax.Array  # float32, normalised as a scan is in the brain's mask, 0 outside
    label: jax.Array  # int32: BACKGROUND, PVS, LESION, IGNORED
    filled: jax.Array  # float32, as painted, before the scanner
    raw: jax.Array  # float32, the image before normalisation
    brain: jax.Array  # bool, the mask that was extracted
    tissue: jax.Array
    tubes: Tubes
    region: jax.Array  # of each tube, index into REGIONS
    family: jax.Array  # of contrast
    spacing: jax.Array  # (3,) mm acquired


def make_generate(config: GeneratorConfig, patch_size: tuple[int, int, int]):
    """(key, rows (n,), anatomies) -> image (n, d, h, w, 1), label (n, d, h, w) int32: training patches.

    Row i depends on fold_in(key, rows[i]) and the anatomies alone.
    """

    def one(key: jax.Array, anatomies: Anatomies) -> tuple[jax.Array, jax.Array]:
        made = generate(key, anatomies, config, patch_size)
        return made.image[..., None], made.label

    def batch(key: jax.Array, rows: jax.Array, anatomies: Anatomies) -> tuple[jax.Array, jax.Array]:
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
        return jax.lax.map(lambda k: one(k, anatomies), keys)

    return batch


def generate(
    key: jax.Array,
    anatomies: Anatomies,
    config: GeneratorConfig,
    shape: tuple[int, int, int],
    *,
    index: jax.Array | int | None = None,
    family: jax.Array | int | None = None,
    extracted: jax.Array | bool | None = None,
    whole: bool = False,
) -> Patch:
    """One patch of `shape` voxels of 1 mm; `whole`: all of the head.

    index, family, extracted: this anatomy, contrast, and whether the brain is extracted; None draws them.
    """
    keys = iter(jax.random.split(key, 12))
    draw = lambda: Draws(next(keys))  # noqa: E731  a stream for each part: one that is switched off moves no other
    head = _draw_head(draw(), anatomies, config, shape, index, whole)
    signals, deviations, family = _draw_signals(draw(), config, family)
    wm, fluid = signals[tissues.WHITE_MATTER], signals[tissues.VENTRICLE]
    image = head.signal(signals)
    textured = draw()
    if config.texture:
        image = image + _texture(textured, config, head.tissue, deviations)
    image, lesion, lacune = _confound(draw(), draw(), config, anatomies, head, image, signals, family)
    tubes, region = _draw_pvs(draw(), config, anatomies, head, whole)
    filled, strength = fill(tubes, _is(head.tissue, tissues.WITH_PVS) & (lacune < 0.3))
    drawn = draw()
    within = fluid + config.fluid_offset * drawn.normal()
    change = filled * strength * (within - image)
    bias = jnp.exp(drawn.uniform(config.bias) * drawn.smooth(shape, max(shape) / 2) / 2)
    scanned = draw()
    if config.acquisition:
        scanner = draw_scanner(scanned, config, shape)
        seen = jnp.abs(scanner.expected(change))
        raw = scanner.scan(scanned, jnp.maximum(image + change, 0) * bias)
        noise, spacing = scanner.noise, scanner.spacing
        lesion = scanner.expected(lesion)
    else:
        seen, raw = jnp.abs(change), (image + change) * bias
        noise, spacing = jnp.zeros(()), jnp.ones(3)
    brain, extracted = _extract(draw(), config, anatomies, head, extracted)
    exponent, top = _intensity_curve(scanned, config)
    curve = lambda x: jnp.minimum(jnp.maximum(x, 0), top) ** exponent  # noqa: E731
    raw = jnp.where(brain, curve(raw), 0)
    image = _normalised(draw(), config, anatomies, head, raw, brain, extracted, curve(signals), deviations)
    # What nobody could see is not labelled, and what is barely seen does not count.
    texture = deviations[tissues.WHITE_MATTER] if config.texture else 0.0
    needed = jnp.maximum(config.label_share * jnp.abs(fluid - wm), config.label_noise * jnp.hypot(noise, texture))
    label = jnp.where(lesion > 0.35, LESION if config.lesions_as_output else BACKGROUND, BACKGROUND)
    label = jnp.where(seen > config.ignored_share * needed, IGNORED, label)
    label = jnp.where(seen > needed, PVS, label)
    label = jnp.where(brain, label, BACKGROUND).astype(jnp.int32)
    return Patch(image.astype(jnp.float32), label, filled, raw, brain, head.tissue, tubes, region, family, spacing)


def _is(tissue: jax.Array, which: tuple[int, ...]) -> jax.Array:
    table = np.zeros(len(tissues.TISSUES), bool)
    table[list(which)] = True
    return jnp.asarray(table)[tissue]


def _draw_head(
    draws: Draws,
    anatomies: Anatomies,
    config: GeneratorConfig,
    shape: tuple[int, ...],
    index: jax.Array | int | None,
    whole: bool,
) -> Head:
    tissue = anatomies["tissue"]
    d = draws.index(len(tissue)) if index is None else jnp.asarray(index)
    kind = draws.weighted(config.centres)
    region = draws.weighted((0.55, 0.35, 0.05, 0.05))
    source = jnp.select([kind == 0, kind == 1], [region, places.IN_TISSUE], places.IN_HEAD)
    centre = anatomies["places"][d, source, draws.index(places.PLACES)]
    centre = centre + draws.uniform((-10, 10), (3,))
    if whole:
        centre = (jnp.array(tissue.shape[1:]) - 1) / 2
    scales = 1 + draws.uniform((-config.scaling, config.scaling), (3,))
    angles = jnp.deg2rad(draws.uniform((-config.rotation, config.rotation), (3,)))
    shears = draws.uniform((-config.shear, config.shear), (3,))
    sheared = jnp.eye(3).at[[0, 0, 1], [1, 2, 2]].set(shears)
    flip = jnp.where(draws.chance(config.flip), jnp.array([1.0, 1, -1]), jnp.ones(3))
    with jax.default_matmul_precision("highest"):
        matrix = affine_matrix(angles, jnp.ones(3)) @ sheared @ jnp.diag(flip / scales)
    displacement = draws.uniform(config.elastic) * draws.smooth(shape, _ELASTIC_MM, 3)

    grid = jnp.stack(jnp.meshgrid(*(jnp.arange(n) - (n - 1) / 2 for n in shape), indexing="ij"), -1)
    at = along_axis(matrix, grid, 3) + displacement + centre
    low = jnp.floor(at).astype(jnp.int32)
    part = at - low
    corners, weights = [], []
    for corner in np.ndindex(2, 2, 2):
        corners.append(_look_up(tissue, d, low + np.array(corner), tissues.AIR).astype(jnp.int32))
        weights.append(jnp.prod(jnp.where(np.array(corner) == 1, part, 1 - part), -1))
    near = jnp.round(at).astype(jnp.int32)
    edge = _look_up(anatomies["from_edge"], d, near, -127) / places.EDGE_UNITS
    nearest = _look_up(tissue, d, near, tissues.AIR).astype(jnp.int32)
    return Head(nearest, tuple(corners), tuple(weights), edge, d, matrix, centre, displacement)


def _look_up(maps: jax.Array, d: jax.Array, voxels: jax.Array, outside: int) -> jax.Array:
    shape = jnp.array(maps.shape[1:])
    inside = jnp.all((voxels >= 0) & (voxels < shape), -1)
    return jnp.where(inside, maps[d, voxels[..., 0], voxels[..., 1], voxels[..., 2]], outside)


def _draw_signals(
    draws: Draws, config: GeneratorConfig, family: jax.Array | int | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean and standard deviation of each tissue (tissues,), and the family of contrast."""
    count = len(tissues.TISSUES)
    drawn = draws.weighted(config.families)
    family = drawn if family is None else jnp.asarray(family)
    free = draws.uniform(config.free_signal, (count,))
    gap, brighter, base = draws.uniform((0.2, 0.6)), draws.chance(0.5), draws.uniform((0.0, 1.0))
    low, high = config.free_signal
    # Fluid is told from white matter on any contrast, or nothing could be seen.
    white = jnp.where(brighter, low + base * (high - gap - low), low + gap + base * (high - gap - low))
    fluid = jnp.where(brighter, white + gap, white - gap)
    free = free.at[tissues.WHITE_MATTER].set(white).at[tissues.VENTRICLE].set(fluid)
    known = jnp.asarray(tissues.SIGNALS)[jnp.minimum(family, tissues.FLAIR)]
    known = known + config.signal_scatter * draws.normal((count,))
    middle = known[tissues.WHITE_MATTER]
    known = middle + (known - middle) * draws.uniform(config.contrast_gain)
    known = jnp.where(jnp.asarray(tissues.HAS_SIGNAL), known, free)
    signals = jnp.where(family == tissues.ANY, free, known)
    signals = signals.at[tissues.FLUID].set(signals[tissues.VENTRICLE] + 0.03 * draws.normal())
    signals = jnp.clip(signals.at[tissues.AIR].set(0), 0, 1.3)
    inside = np.isin(np.arange(count), tissues.IN_BRAIN)
    deviations = jnp.where(
        inside, draws.uniform(config.unevenness, (count,)), draws.uniform(config.unevenness_outside, (count,))
    )
    return signals, deviations.at[tissues.AIR].set(0), family


def _texture(draws: Draws, config: GeneratorConfig, tissue: jax.Array, deviations: jax.Array) -> jax.Array:
    shape = tissue.shape
    fine = 0.6 * draws.smooth(shape, 6) + 0.5 * draws.smooth(shape, 2.5) + 0.4 * draws.normal(shape)
    part = (draws.smooth(shape, 12) > draws.uniform((-1, 1))).astype(jnp.float32)
    inside = np.isin(np.arange(len(deviations)), tissues.IN_BRAIN)
    steps = jnp.where(inside, 1.0, 3.0) * config.subclasses * draws.normal(deviations.shape)
    return deviations[tissue] * fine + steps.at[tissues.AIR].set(0)[tissue] * part


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


def _confound(
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
    white = _is(tissue, tissues.WITH_PVS).astype(jnp.float32)

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
    solid = (tissue > 0) & (tissue <= max(tissues.IN_BRAIN))
    filled, _ = fill(vessels, solid)
    other = jnp.clip(wm + (wm - fluid) * tubes.uniform((0.2, 1.0)), 0, 1.3)
    image = image + filled * tubes.chance(config.vessel_share) * tubes.uniform((0.3, 1.0)) * (other - image)
    # Fluid in narrow sulci that a label map does not have.
    sulci = _others(tubes, config.sulci, anatomies, head, places.IN_CORTEX)
    filled, strong = fill(sulci, tissue == tissues.CORTEX)
    image = image + filled * strong * (fluid - image)
    return image, jnp.maximum(lesion, lacune), lacune


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
    return tubes.nearest(head.tissue.shape, _most_here(most, head.tissue.shape, 12))


def _most_here(most: int, shape: tuple[int, ...], more: int) -> int:
    """How many of a whole brain's tubes a patch has room for."""
    return min(most, math.ceil(2.5 * most * math.prod(shape) / WHOLE_BRAIN_MM3) + more)


def _draw_pvs(
    draws: Draws, config: GeneratorConfig, anatomies: Anatomies, head: Head, whole: bool
) -> tuple[Tubes, jax.Array]:
    """The perivascular spaces of the patch, and the region of each."""
    found, regions = [], []
    back = jnp.linalg.inv(head.matrix)
    for region, counts in enumerate((config.white_matter, config.basal_ganglia, config.hippocampus, config.midbrain)):
        most = counts[1]
        if most == 0:
            continue
        one = draws.index(places.PLACES, (most,))
        at = head.in_patch(anatomies["places"][head.anatomy, region, one] + draws.uniform((-0.5, 0.5), (most, 3)))
        along = unit(anatomies["directions"][head.anatomy, region, one] @ back.T)
        along = unit(along + config.jitter * (1 if region < places.IN_HIPPOCAMPUS else 2) * draws.normal((most, 3)))
        median = config.length_median * (1 if region == places.IN_WHITE_MATTER else _NUCLEI_LENGTH)
        tubes = draw_tubes(
            draws,
            at,
            along,
            jnp.arange(most) < draws.count(counts),
            width=(jnp.full(most, config.width_median), jnp.asarray(config.width_deviation)),
            length=(jnp.full(most, median), jnp.asarray(config.length_deviation)),
            width_limits=config.width,
            length_limits=config.length,
            taper=config.taper,
            bend=config.bend,
            strength=config.strength,
        )
        if not whole:
            tubes = tubes.nearest(head.tissue.shape, _most_here(most, head.tissue.shape, min(most, 60)))
        found.append(tubes)
        regions.append(np.full(len(tubes.length), region))
    joined = Tubes(*(jnp.concatenate(parts) for parts in zip(*found, strict=True)))
    return joined, jnp.asarray(np.concatenate(regions))


def _intensity_curve(draws: Draws, config: GeneratorConfig) -> tuple[jax.Array, jax.Array]:
    """The exponent of the intensities, and where they are cut off."""
    if not config.acquisition:
        return jnp.ones(()), jnp.asarray(jnp.inf)
    return jnp.exp(config.gamma * draws.normal()), draws.uniform(config.clipping)


def _extract(
    draws: Draws, config: GeneratorConfig, anatomies: Anatomies, head: Head, extracted: jax.Array | bool | None
) -> tuple[jax.Array, jax.Array]:
    """The mask of what is left of the head, and whether that is an extracted brain."""
    drawn = draws.chance(config.extraction)
    extracted = drawn if extracted is None else jnp.asarray(extracted)
    extracted = extracted | ~anatomies["heads"][head.anatomy]
    waves = config.edge_waves * draws.smooth(head.tissue.shape, _EDGE_MM)
    mask = head.from_edge + waves + draws.uniform(config.edge_offset) > 0
    return mask | ~extracted, extracted


def _normalised(
    draws: Draws,
    config: GeneratorConfig,
    anatomies: Anatomies,
    head: Head,
    raw: jax.Array,
    brain: jax.Array,
    extracted: jax.Array,
    signals: jax.Array,
    deviations: jax.Array,
) -> jax.Array:
    """ "zscore_bright_fluid" of the whole scan, by the shares of its tissues, on the patch; 0 outside of the mask."""
    share = anatomies["shares"][head.anatomy, jnp.where(extracted, 1, 0)]
    # How much air a scan has around the head is the protocol's choice.
    air = jnp.where(extracted, share[tissues.AIR], share[tissues.AIR] * draws.uniform((0.6, 2.0)))
    share = share.at[tissues.AIR].set(air)
    share = share / share.sum()
    mean = jnp.sum(share * signals)
    deviation = jnp.sqrt(jnp.maximum(jnp.sum(share * (signals**2 + deviations**2)) - mean**2, 1e-4))
    error = config.normalisation_error
    deviation = deviation * jnp.exp(error * draws.normal())
    dark = signals[tissues.VENTRICLE] < signals[tissues.WHITE_MATTER]
    deviation = jnp.where(dark, -deviation, deviation)
    return jnp.where(brain, (raw - mean) / deviation + error * draws.normal(), 0)
