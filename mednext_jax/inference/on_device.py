"""The compiled steps around the sliding window: scale and resample before it, resample back and decide after it.

A scan crosses to the device once, cut to its non-zero box and stored in a bucket shape, and its mask and probability
come back once. What differs between scans of one bucket are arguments: extents, intensity scaling, and the resampling
matrices, whose rows and columns beyond the true extents are zero.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mednext_jax.inference.sliding_window import (
    Network,
    Window,
    foreground_probabilities,
    starts_with,
    window_on_device,
)
from mednext_jax.inference.tiles import bucket_shape, pad_to_patch, tile_starts
from mednext_jax.io.slabs import copy_slabs, over_slabs, slabs_of
from mednext_jax.ops.resample import find_thick_axis, nearest_index, resize_matrix
from mednext_jax.preprocess.normalise import Scaling
from mednext_jax.preprocess.pipeline import Properties

_PARTS = 8  # in which a result comes back from the device
Matrices = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Boxed:
    """The non-zero box of a scan and how it is to be scaled.

    volume: float32 (d, h, w, c). region: boolean (d, h, w), the non-zero mask (its holes filled if a channel is scaled
    in it only). scaling: one a channel. properties: where the box lies.
    """

    volume: np.ndarray
    region: np.ndarray
    scaling: list[Scaling]
    properties: Properties


@dataclasses.dataclass(frozen=True)
class _Resampling:
    """Matrices from the stored box to the network's volume and back, one an axis; None where the grids are the same.

    thick_axis: resampled with nearest neighbour after the slices across it (on the way there; the way back is linear,
    without a clip, and its order does not matter).
    """

    there: Matrices | None = None
    back: Matrices | None = None
    thick_axis: int | None = None

    @classmethod
    def between(
        cls, placed: Properties, before: Sequence[int], stored: Sequence[int], bucket: Sequence[int]
    ) -> _Resampling:
        thick = find_thick_axis(placed.spacing, placed.resampled_spacing)
        thick_back = find_thick_axis(placed.resampled_spacing, placed.spacing)
        there, back = [], []
        for axis in range(3):
            n, m, b = placed.box_shape[axis], placed.resampled_shape[axis], before[axis]
            forward = resize_matrix(n, m, 0 if axis == thick else 3)
            backward = resize_matrix(m, n, 0 if axis == thick_back else 1)
            there.append(_placed(forward, (bucket[axis], stored[axis]), (b, 0)))
            back.append(_placed(backward, (stored[axis], bucket[axis]), (0, b)))
        return cls((there[0], there[1], there[2]), (back[0], back[1], back[2]), thick)


@dataclasses.dataclass(frozen=True)
class Stored:
    """A box on the host, ready for the programs of its bucket.

    volume: float32 (D, H, W, c), zeros around the box. region: likewise boolean (D, H, W), or None where no channel is
    scaled in it only. scaling: (c, 5). properties: where the box lies in the scan. origin: of the box in what is
    stored; before: in the network's volume. starts: (n, 3), of the tiles.
    """

    volume: np.ndarray
    region: np.ndarray | None
    scaling: np.ndarray
    properties: Properties
    origin: list[int]
    before: list[int]
    resampling: _Resampling
    starts: np.ndarray


def store(boxed: Boxed, window: Window, *, skip_background: bool = False) -> Stored:
    """What `segment` needs of a scan. skip_background: only tiles with a voxel of `region`."""
    placed = boxed.properties
    inner, outer = placed.resampled_shape, placed.box_shape
    before = [b for b, _ in pad_to_patch(inner, window.patch_size)]
    spatial = [max(n, p) for n, p in zip(inner, window.patch_size, strict=True)]
    starts = tile_starts(spatial, window.patch_size, window.step)
    if skip_background:
        grid = np.ix_(*(nearest_index(n, m) for n, m in zip(outer, inner, strict=True)))
        starts = starts_with(boxed.region[grid], starts, before, window.patch_size)
    bucket = bucket_shape(inner, window.patch_size, window.bucket)

    if inner == outer:  # the box is stored where the padded volume needs it; otherwise the matrices move it there
        origin, stored, resampling = before, bucket, _Resampling()
    else:
        origin, stored = [0, 0, 0], bucket_shape(outer, (1, 1, 1), window.bucket)
        resampling = _Resampling.between(placed, before, stored, bucket)
    masked = any(scaling.masked for scaling in boxed.scaling)
    return Stored(
        _in_zeros(boxed.volume, stored, origin),
        _in_zeros(boxed.region, stored, origin) if masked else None,
        np.array(boxed.scaling, np.float32),
        *(placed, origin, before, resampling, starts),
    )


def segment(
    stored: Stored, networks: Sequence[Network], window: Window, threshold: float | None
) -> list[tuple[jax.Array, jax.Array]]:
    """Label uint8 and foreground probability float32 of all that is stored, on the device, in slabs of depth.

    Equal to `preprocess_scan`, `sliding_window`, `restore` and `decide` to float32 rounding. What no tile covers is
    background.
    """
    placed = stored.properties
    ready = _make_ready(
        stored.volume,
        stored.region,
        stored.scaling,
        np.array([stored.origin, placed.box_shape]),
        np.array([stored.before, placed.resampled_shape]),
        stored.resampling.there,
        stored.resampling.thick_axis,
    )
    evidence = window_on_device(window, networks, ready, stored.starts)
    return _decide_on_device(evidence, stored.resampling.back, threshold, window.kind, window.regions)


def to_host(
    decided: list[tuple[jax.Array, jax.Array]], origin: Sequence[int], extents: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Label (d, h, w) and probability of the box from what `segment` returned, whose memory on the device is freed.

    origin, extents: of the box in what was stored. The slabs come over beside each other.
    """
    label, probability = np.empty(extents, np.uint8), np.empty(extents, np.float32)
    edges = list(itertools.accumulate((len(part) for part, _ in decided), initial=0))
    _, *inside = (slice(o, o + n) for o, n in zip(origin, extents, strict=True))

    def fetch(chosen: slice) -> None:
        for (some_label, some_probability), start in zip(decided[chosen], edges[chosen], strict=True):
            low, high = max(start, origin[0]), min(start + len(some_label), origin[0] + extents[0])
            if low < high:
                here, there = slice(low - start, high - start), slice(low - origin[0], high - origin[0])
                label[there] = np.asarray(some_label)[here, *inside]
                probability[there] = np.asarray(some_probability)[here, *inside]
            some_label.delete()
            some_probability.delete()

    over_slabs(len(decided), fetch)
    return label, probability


def decide(
    classes: jax.Array, threshold: float | None, regions: tuple[int, ...] | None = None
) -> tuple[jax.Array, jax.Array]:
    """Label (...) uint8 and foreground probability from the probabilities (..., n) of n foreground classes.

    threshold: a voxel is foreground, of its most probable class, if the foreground's probability is above; None is the
    argmax over background and classes (a tie is background).
    regions: `classes` are regions; each that is above the threshold (None: 0.5) writes its value, later over earlier
    (nnU-Net), and the foreground's probability is the largest of theirs.
    """
    if regions is not None:
        label = jnp.zeros(classes.shape[:-1], jnp.uint8)
        for i, value in enumerate(regions):
            label = jnp.where(classes[..., i] > (0.5 if threshold is None else threshold), jnp.uint8(value), label)
        return label, classes.max(-1)
    probability = jnp.clip(classes.sum(-1), 0, 1)
    foreground = classes.max(-1) > 1 - probability if threshold is None else probability > threshold
    return jnp.where(foreground, classes.argmax(-1) + 1, 0).astype(jnp.uint8), probability


@functools.partial(jax.jit, static_argnames="thick_axis")
def _make_ready(volume, region, scaling, box, inner, matrices, thick_axis):
    """The network's volume (D, H, W, c) from the stored box: scaled, resampled with order 3, zeros around.

    scaling: (c, 5) as `Scaling`. box, inner: (2, 3) origin and extent of the box in what is stored, and in the result.
    """
    inside = _inside(volume.shape, box)
    low, high, mean, deviation, masked = scaling.T
    scaled = (jnp.clip(volume, low, high) - mean) / deviation
    if region is not None:
        scaled = jnp.where(region[..., None] | (masked == 0), scaled, volume)
    if matrices is None:
        return jnp.where(inside, scaled, 0)
    flat = tuple(axis for axis in range(3) if axis != thick_axis)
    lowest = scaled.min(flat, keepdims=True, where=inside, initial=jnp.inf)
    highest = scaled.max(flat, keepdims=True, where=inside, initial=-jnp.inf)
    y = scaled
    for axis in flat:
        y = _along(y, matrices[axis], axis)
    y = jnp.clip(y, lowest, highest)  # as scikit-image; each slice by itself across a thick axis
    if thick_axis is not None:
        y = _along(jnp.where(jnp.isfinite(y), y, 0), matrices[thick_axis], thick_axis)
    return jnp.where(_inside(y.shape, inner), y, 0)


@functools.partial(jax.jit, static_argnames=("threshold", "kind", "regions"))
def _decide_on_device(evidence, matrices, threshold, kind, regions):
    """Label and foreground probability on the stored box, from evidence on the network's volume; slab by slab."""
    for axis in range(0 if matrices is None else 3):
        evidence = _along(evidence, matrices[axis], axis)
    label, probability = decide(foreground_probabilities(evidence, kind), threshold, regions)
    return [(label[slab], probability[slab]) for slab in slabs_of(len(label), _PARTS)]


def _along(x: jax.Array, matrix: jax.Array, axis: int) -> jax.Array:
    # Highest precision: TF32 and bfloat16 products would cost 1e-3.
    return jnp.moveaxis(jnp.tensordot(matrix, x, (1, axis), precision=lax.Precision.HIGHEST), 0, axis)


def _inside(shape: Sequence[int], box: jax.Array) -> jax.Array:
    """Boolean (D, H, W, 1): the voxels of a box given by its origin and extent (2, 3)."""
    d, h, w = (
        (jnp.arange(n) >= o) & (jnp.arange(n) < o + e) for n, o, e in zip(shape[:3], box[0], box[1], strict=True)
    )
    return d[:, None, None, None] & h[:, None, None] & w[:, None]


def _in_zeros(array: np.ndarray, shape: Sequence[int], origin: Sequence[int]) -> np.ndarray:
    stored = np.zeros((*shape, *array.shape[3:]), array.dtype)
    copy_slabs(stored[tuple(slice(o, o + n) for o, n in zip(origin, array.shape[:3], strict=True))], array)
    return stored


def _placed(matrix: np.ndarray, shape: tuple[int, int], corner: tuple[int, int]) -> np.ndarray:
    """A float32 matrix of `shape` that holds `matrix` at `corner` and zeros elsewhere."""
    placed = np.zeros(shape, np.float32)
    placed[corner[0] : corner[0] + matrix.shape[0], corner[1] : corner[1] + matrix.shape[1]] = matrix
    return placed
