"""Training patches made on the device from label maps: a head deformed, painted, scanned, normalised, with its truth.

One jittable function of (key, anatomies); nothing is read, and nothing but the anatomies is kept between patches.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mednext_jax.simulate import anatomy as places
from mednext_jax.simulate import tissues
from mednext_jax.simulate.deformed_head import Anatomies, Head, draw_head
from mednext_jax.simulate.device_scanner import draw_scanner
from mednext_jax.simulate.generator_config import GeneratorConfig
from mednext_jax.simulate.look_alikes import add_look_alikes
from mednext_jax.simulate.painted_tubes import Tubes, draw_tubes, fill, most_here
from mednext_jax.simulate.random_fields import Draws, unit

BACKGROUND, PVS, LESION, IGNORED = 0, 1, 2, 3  # labels
_NUCLEI_LENGTH = 0.6  # of the median length, for tubes in the basal ganglia, hippocampus and midbrain
_EDGE_MM = 8


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
    head = draw_head(draw(), anatomies, config, shape, index, whole)
    signals, deviations, family = _draw_signals(draw(), config, family)
    wm, fluid = signals[tissues.WHITE_MATTER], signals[tissues.VENTRICLE]
    image = head.signal(signals)
    textured = draw()
    if config.texture:
        image = image + _texture(textured, config, head.tissue, deviations)
    image, lesion, lacune = add_look_alikes(draw(), draw(), config, anatomies, head, image, signals, family)
    tubes, region = _draw_pvs(draw(), config, anatomies, head, whole)
    filled, strength = fill(tubes, head.among(tissues.WITH_PVS) & (lacune < 0.3))
    drawn = draw()
    within = fluid + config.fluid_offset * drawn.normal()
    change = filled * strength * (within - image)
    bias = jnp.exp(drawn.uniform(config.bias) * drawn.smooth(shape, max(shape) / 2) / 2)
    scanned = draw()
    if config.acquisition:
        scanner = draw_scanner(scanned, config, shape)
        seen, lesion = scanner.expected(jnp.stack([change, lesion], -1))
        seen, raw = jnp.abs(seen), scanner.scan(scanned, jnp.maximum(image + change, 0) * bias)
        noise, spacing = scanner.noise, scanner.spacing
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


def _draw_pvs(
    draws: Draws, config: GeneratorConfig, anatomies: Anatomies, head: Head, whole: bool
) -> tuple[Tubes, jax.Array]:
    """The perivascular spaces of the patch, and the region of each."""
    asked = (config.white_matter, config.basal_ganglia, config.hippocampus, config.midbrain)
    regions = [region for region, (_, highest) in enumerate(asked) if highest]
    most = [asked[region][1] for region in regions]
    # All at once: a GPU starts the kernels of one draw as fast as those of a quarter of it.
    total, kind = sum(most), np.repeat(regions, most)
    one = draws.index(places.PLACES, (total,))
    at = head.in_patch(anatomies["places"][head.anatomy, kind, one] + draws.uniform((-0.5, 0.5), (total, 3)))
    along = unit(head.turned(anatomies["directions"][head.anatomy, kind, one]))
    jitter = config.jitter * np.where(kind < places.IN_HIPPOCAMPUS, 1, 2)[:, None]
    median = config.length_median * np.where(kind == places.IN_WHITE_MATTER, 1, _NUCLEI_LENGTH)
    tubes = draw_tubes(
        draws,
        at,
        unit(along + jitter * draws.normal((total, 3))),
        jnp.concatenate([jnp.arange(asked[region][1]) < draws.count(asked[region]) for region in regions]),
        width=(jnp.asarray(config.width_median), jnp.asarray(config.width_deviation)),
        length=(jnp.asarray(median, jnp.float32), jnp.asarray(config.length_deviation)),
        width_limits=config.width,
        length_limits=config.length,
        taper=config.taper,
        bend=config.bend,
        strength=config.strength,
    )
    found = tubes.split(most)
    if not whole:
        shape = head.tissue.shape
        found = [part.nearest(shape, most_here(n, shape, min(n, 60))) for part, n in zip(found, most, strict=True)]
    regions_of = np.repeat(regions, [len(part.length) for part in found])
    return Tubes(*(jnp.concatenate(parts) for parts in zip(*found, strict=True))), jnp.asarray(regions_of)


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
