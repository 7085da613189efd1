"""The tissues of a brain-extracted scan that has no region map: an estimate, as a map of FreeSurfer's numbers.

The atlas of `quantify --regions atlas` says roughly what lies where; a Gaussian mixture of three classes (white matter,
grey matter, fluid), whose prior is that atlas blurred by some millimetres, then decides by the scan's own intensities.

What it gets wrong: deep nuclei, hippocampus and brainstem are the atlas's, true to some millimetres. In T2w and FLAIR
scans grey and white matter overlap, so that their border is half the atlas's (give a T1w scan of the same person on the
same grid, too). Lesions count as grey matter or fluid unless a mask of them is given. Where the cortex is thinner than
the voxels, white matter reaches too far out. Whatever is thinner than 3 mm inside white matter is taken for white
matter, so that perivascular spaces stay in it, and so do thin blades of cortex. A map of SynthSeg, FastSurfer or
FreeSurfer is better than this estimate.
"""

from __future__ import annotations

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from scipy import ndimage

from mednext_jax.measure.freesurfer import FREESURFER
from mednext_jax.measure.parcellation import Parcellation, select
from mednext_jax.simulate.painting import codes_on

_PRIOR_MM = 3.0  # standard deviation of the blurred atlas
_BIAS_MM = 25.0  # standard deviation of the smooth field by which white matter is made even
_ROUNDS = 10
_CLOSED_MM = 1.5  # radius: what is thinner than twice this inside white matter is white matter
_HOLE_MM3 = 300.0
_AROUND_VENTRICLES_MM = 12.0
_LEAST_VENTRICLE_MM3 = 20.0
WHITE, GREY, FLUID = range(3)


def estimate_tissue(
    scan: nib.Nifti1Image, atlas: Parcellation, fluid_is_bright: bool, lesions: np.ndarray | None = None
) -> np.ndarray:
    """A label map (x, y, z) int16 of FreeSurfer's numbers on the grid of a brain-extracted `scan`.

    atlas: `quantify.atlas.register_atlas`'s. lesions: (x, y, z) boolean; they are white matter.
    """
    image = np.asarray(scan.dataobj, np.float32)
    spacing = voxel_sizes(scan.affine)
    brain = ndimage.binary_fill_holes(image != 0)
    names = codes_on(atlas, image.shape, scan.affine)
    names[~brain] = 0
    classes = _classes(atlas)[names]
    classes[brain & (names == 0)] = FLUID
    prior = np.stack(
        [ndimage.gaussian_filter(((classes == k) & brain).astype(np.float32), _PRIOR_MM / spacing) for k in range(3)]
    )[:, brain]
    prior = (prior + 1e-3) / (prior.sum(0) + 3e-3)
    values = image[brain]
    for _ in range(2):
        share = _mixture(values, prior, fluid_is_bright)
        bias = _bias(values, share[WHITE] > 0.9, brain, spacing)
        values = image[brain] / bias
    best = np.full(image.shape, -1, np.int8)
    best[brain] = _mixture(values, prior, fluid_is_bright).argmax(0)
    return _map(best, names, atlas, brain, spacing, lesions)


def _classes(atlas: Parcellation) -> np.ndarray:
    """The class of each of the atlas's structures."""
    structures = atlas.structures
    table = np.full(len(structures), GREY, np.int8)
    table[0] = FLUID
    table[select(structures, tissue="csf") | select(structures, tissue="ventricle")] = FLUID
    white = select(structures, tissue="white matter") | select(structures, name="cerebellar white matter")
    table[white | select(structures, name="brainstem")] = WHITE
    return table


def _mixture(values: np.ndarray, prior: np.ndarray, fluid_is_bright: bool) -> np.ndarray:
    """Probabilities (3, n) of the classes at intensities (n,): expectation maximisation of three Gaussians."""
    sample = slice(None, None, 7)
    some, there = values[sample], prior[:, sample]
    white = float(np.median(some[there[WHITE] > 0.9]))
    fluid = float(np.percentile(some[there[FLUID] > 0.5], 90 if fluid_is_bright else 10))
    grey = float(np.median(some[there[GREY] > 0.7]))
    spread = 1.4826 * float(np.median(np.abs(some[there[WHITE] > 0.9] - white))) + 1e-6
    mean, deviation = np.array([white, grey, fluid]), np.array([spread, 1.5 * spread, 0.3 * abs(fluid - white)])
    for _ in range(_ROUNDS):
        share = _posterior(some, there, mean, deviation)
        weight = share.sum(1)
        mean = (share @ some) / weight
        deviation = np.sqrt([(s * (some - m) ** 2).sum() for s, m in zip(share, mean, strict=True)] / weight)
        deviation = np.maximum(deviation, 0.3 * spread)
    return _posterior(values, prior, mean, deviation)


def _posterior(values: np.ndarray, prior: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    share = np.stack(
        [p * np.exp(-0.5 * ((values - m) / d) ** 2) / d for p, m, d in zip(prior, mean, deviation, strict=True)]
    )
    return share / np.maximum(share.sum(0), 1e-30)


def _bias(values: np.ndarray, white: np.ndarray, brain: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """The smooth field (n,) by which white matter deviates from its median; on every fourth voxel, interpolated."""
    step = 4
    level, weight = (np.zeros(brain.shape, np.float32) for _ in range(2))
    level[brain], weight[brain] = np.where(white, values, 0), white
    coarse = tuple(slice(None, None, step) for _ in range(3))
    sigma = _BIAS_MM / spacing / step
    sums = [ndimage.gaussian_filter(ndimage.uniform_filter(a, step)[coarse], sigma) for a in (level, weight)]
    field = sums[0] / np.maximum(sums[1], 1e-6)
    at = np.argwhere(brain).T / step
    found = ndimage.map_coordinates(field, at, order=1, mode="nearest")
    return np.clip(found / np.median(values[white]), 0.5, 2)


def _map(
    best: np.ndarray,
    names: np.ndarray,
    atlas: Parcellation,
    brain: np.ndarray,
    spacing: np.ndarray,
    lesions: np.ndarray | None,
) -> np.ndarray:
    structures = atlas.structures
    numbers = {(s.name, s.hemisphere): value for value, s in sorted(FREESURFER.items(), reverse=True)}
    inner = np.array([s.region not in ("", "cerebellum") and s.tissue != "white matter" for s in structures])
    cerebellar = select(structures, region="cerebellum")[names]
    fluid = best == FLUID
    kept = inner[names] & ~fluid  # nuclei, hippocampus, brainstem, ...: the atlas's
    lateral = select(structures, name="lateral ventricle") | select(structures, name="inferior lateral ventricle")
    cortex = select(structures, tissue="cortex") | select(structures, region="cerebellum")
    ventricles = _ventricles(fluid, lateral[names], cortex[names], spacing)
    white = (best == WHITE) & ~kept & ~cerebellar
    if lesions is not None:
        white |= lesions & brain & ~kept
        ventricles &= ~lesions
    white = _largest(white)
    white |= _holes(white | kept | ventricles, spacing) & brain & ~kept & ~ventricles & ~cerebellar
    values = np.zeros(best.shape, np.int16)
    left = _left(names, structures, brain)
    values[brain] = 24
    grey = brain & (best != FLUID)
    values[grey] = np.where(left, 3, 42)[grey]
    values[cerebellar & grey] = np.where(left, 8, 47)[cerebellar & grey]
    inside = cerebellar & (best == WHITE)
    values[inside] = np.where(left, 7, 46)[inside]
    values[ventricles] = np.where(left, 4, 43)[ventricles]
    values[white] = np.where(left, 2, 41)[white]
    table = np.array([numbers.get((s.name, s.hemisphere), 0) for s in structures], np.int16)
    values[kept] = table[names][kept]
    return values


def _ventricles(fluid: np.ndarray, seeds: np.ndarray, cortex: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Fluid that hangs together with the atlas's ventricles and lies nearer to them than to the atlas's cortex."""
    if not (fluid & seeds).any():
        return np.zeros_like(fluid)
    away = ndimage.distance_transform_edt(~seeds, sampling=spacing)
    near = fluid & (away <= _AROUND_VENTRICLES_MM)
    near &= away < ndimage.distance_transform_edt(~cortex, sampling=spacing)
    labels, count = ndimage.label(near)
    chosen = np.bincount(labels[seeds], minlength=count + 1) * spacing.prod() > _LEAST_VENTRICLE_MM3
    chosen[0] = False
    return chosen[labels]


def _largest(mask: np.ndarray) -> np.ndarray:
    """The connected parts of a mask that hold at least a tenth of it."""
    labels, count = ndimage.label(mask)
    size = np.bincount(labels.ravel(), minlength=count + 1)
    size[0] = 0
    return (size >= 0.1 * max(size.sum(), 1))[labels]


def _holes(tissue: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """What thin things and small holes take from `tissue`: perivascular spaces that reach its edge or do not."""
    far = ndimage.distance_transform_edt(~tissue, sampling=spacing) > _CLOSED_MM
    closed = ndimage.distance_transform_edt(~far, sampling=spacing) > _CLOSED_MM
    labels, count = ndimage.label(~(tissue | closed))
    small = np.bincount(labels.ravel(), minlength=count + 1) * spacing.prod() < _HOLE_MM3
    small[0] = False
    return (closed & ~tissue) | small[labels]


def _left(names: np.ndarray, structures: tuple, brain: np.ndarray) -> np.ndarray:
    """Whether each voxel is nearer to the left side's structures than to the right's."""
    middles = [np.argwhere(select(structures, hemisphere=side)[names]).mean(0) for side in ("left", "right")]
    towards = middles[0] - middles[1]
    place = np.tensordot(towards, np.indices(names.shape, np.float32), 1)
    return place > towards @ (middles[0] + middles[1]) / 2
