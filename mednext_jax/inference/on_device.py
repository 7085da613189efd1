"""The compiled steps around the sliding window: scale and resample before it, resample back and decide after it.

A scan crosses to the device once, cut to its non-zero box and stored in a bucket shape, and its mask and probability
come back once. What differs between scans of one bucket are arguments: extents, intensity scaling, and the resampling
matrices, whose rows and columns beyond the true extents are zero.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mednext_jax.errors import WorkError
from mednext_jax.inference.sliding_window import (
    Network,
    Window,
    foreground_probabilities,
    starts_with,
    window_on_device,
)
from mednext_jax.inference.tiles import bucket_shape, pad_to_patch, tile_starts
from mednext_jax.io.nifti import Grid
from mednext_jax.io.slabs import copy_slabs, over_slabs, slabs_of
from mednext_jax.ops.resample import find_thick_axis, nearest_index, resample, resize_matrix
from mednext_jax.preprocess.crop import Region, is_brain_extracted
from mednext_jax.preprocess.normalise import Scaling, scale
from mednext_jax.preprocess.trip import Properties

_PARTS = 8  # in which a result comes back from the device
Matrices = tuple[np.ndarray, np.ndarray, np.ndarray]
Slabs = list[tuple[jax.Array, jax.Array]]  # label and probability on the device, in slabs of depth
# What is background without asking the network. "auto": voxels that are 0 in every channel and connected to the border
# of a scan whose brain was extracted; tiles that hold nothing else are not computed. "compute": nothing, as nnU-Net.
BACKGROUNDS = ("auto", "compute")


@dataclasses.dataclass(frozen=True)
class _Resampling:
    """Matrices from the stored box to the network's volume and back, one per axis; None where the grids are the same.

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
class LoadedScan:
    """A scan on the host, ready for the programs of its bucket: its box, and how that is scaled, resampled and tiled.

    volume: float32 (D, H, W, c), zeros around the box. inside: likewise boolean (D, H, W), the mask of channels that
    are scaled in it only, or None. scaling: (c, 5), rows of `Scaling`. properties: where the box lies in the scan.
    origin: of the box in what is stored; before: in the network's volume. starts: (n, 3), of the tiles.
    foreground: boolean, in the box; what is not set is background whatever the network says. None: no such voxels.
    brain_extracted: whether zeros lie around it. grid: of the scan's file. contrast: as names tell it. seconds: wall
    time of each stage so far.
    """

    volume: np.ndarray
    inside: np.ndarray | None
    scaling: np.ndarray
    properties: Properties
    origin: list[int]
    before: list[int]
    resampling: _Resampling
    starts: np.ndarray
    foreground: np.ndarray | None = None
    brain_extracted: bool = False
    grid: Grid | None = None
    contrast: str | None = None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)


def load_box(
    volume: np.ndarray,
    region: Region,
    scaling: Sequence[Scaling],
    properties: Properties,
    window: Window,
    *,
    background: str = "compute",
    skip_background: bool = False,
) -> LoadedScan:
    """What `compute_evidence` needs of the box float32 (d, h, w, c) that `region` cut out of a scan.

    background: one of `BACKGROUNDS`. skip_background: only tiles with a voxel of the region, of any scan.
    """
    inner, outer = properties.resampled_shape, properties.box_shape
    before, origin, resampling = _placement(properties, window)
    spatial = [max(n, p) for n, p in zip(inner, window.patch_size, strict=True)]
    starts = tile_starts(spatial, window.patch_size, window.step)
    known = background == "auto" and region.brain_extracted
    if known or skip_background:
        starts = starts_with(_nearest(region.mask, inner), starts, before, window.patch_size)
    # Without resampling the box is stored where the padded volume needs it; otherwise the matrices move it there.
    same = resampling.there is None
    stored = bucket_shape(inner, window.patch_size, window.bucket) if same else _stored_shape(outer, window)
    masked = any(channel.masked for channel in scaling)
    return LoadedScan(
        _in_zeros(volume, stored, origin),
        _in_zeros(region.mask, stored, origin) if masked else None,
        np.array(scaling, np.float32),
        *(properties, origin, before, resampling, starts),
        foreground=region.mask if known else None,
        brain_extracted=region.brain_extracted,
    )


def load_prepared(
    volume: np.ndarray, inside: np.ndarray, properties: Properties, window: Window, *, background: str = "compute"
) -> LoadedScan:
    """A volume (d, h, w, c) that `preprocess_scan` made, to be segmented on its own grid.

    inside: boolean (d, h, w), what of it belongs to the scan's filled mask.
    """
    n, spacing = properties.resampled_shape, properties.resampled_spacing
    stays = Properties(n, (0, 0, 0), n, spacing, n, spacing)
    region = Region(inside, (slice(0, n[0]), slice(0, n[1]), slice(0, n[2])), is_brain_extracted(inside))
    unscaled = [Scaling()] * volume.shape[-1]
    return load_box(volume, region, unscaled, stays, window, background=background)


def on_scan(loaded: LoadedScan, properties: Properties, window: Window) -> LoadedScan:
    """What `load_prepared` made, to be decided on the grid of the scan that it came from."""
    _, origin, resampling = _placement(properties, window)
    foreground = None if loaded.foreground is None else _nearest(loaded.foreground, properties.box_shape)
    return dataclasses.replace(
        loaded, properties=properties, origin=origin, resampling=resampling, foreground=foreground
    )


def compute_evidence(
    scan: LoadedScan,
    networks: Sequence[Network],
    window: Window,
    tiles: Callable[[int, int], None] | None = None,
) -> jax.Array:
    """The networks' evidence on the device, (D, H, W, n) in the bucket of the network's volume.

    What no tile covers is background. tiles: as `window_on_device`.
    """
    placed = scan.properties
    ready = _make_ready(
        scan.volume,
        scan.inside,
        scan.scaling,
        np.array([scan.origin, placed.box_shape]),
        np.array([scan.before, placed.resampled_shape]),
        scan.resampling.there,
        scan.resampling.thick_axis,
    )
    return window_on_device(window, networks, ready, scan.starts, tiles)


def decide_box(scan: LoadedScan, evidence: jax.Array, window: Window, threshold: float | None) -> Slabs:
    """Label uint8 and foreground probability float32 of all that is stored, on the device, in slabs of depth.

    Equal to `preprocess_scan`, plain tiling, nnU-Net's export and `decide` to float32 rounding.
    """
    return _decide_on_device(evidence, scan.resampling.back, threshold, window.kind, window.regions)


def to_host(
    decided: Slabs, origin: Sequence[int], placed: Properties, foreground: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Label and probability (d, h, w) on the whole scan from what `decide_box` returned.

    origin: of the box in what was stored. foreground: see `LoadedScan`. The slabs come over beside each other, and
    their memory on the device is freed. Raises WorkError for a result that is not finite.
    """
    box = tuple(slice(o, o + n) for o, n in zip(placed.box_start, placed.box_shape, strict=True))
    whole = placed.box_shape == placed.shape  # then every voxel is written
    label, probability = ((np.empty if whole else np.zeros)(placed.shape, kind) for kind in (np.uint8, np.float32))
    targets = label[box], probability[box]
    edges = list(itertools.accumulate((len(part) for part, _ in decided), initial=0))
    _, *inside = (slice(o, o + n) for o, n in zip(origin, placed.box_shape, strict=True))

    def fetch(chosen: slice) -> None:
        for parts, start in zip(decided[chosen], edges[chosen], strict=True):
            low, high = max(start, origin[0]), min(start + len(parts[0]), origin[0] + placed.box_shape[0])
            for part, target in zip(parts, targets, strict=True):
                if low < high:
                    there = slice(low - origin[0], high - origin[0])
                    target[there] = found = np.asarray(part)[slice(low - start, high - start), *inside]
                    if not np.isfinite(found).all():
                        raise WorkError("The network's result has voxels that are not finite.")
                    if foreground is not None:
                        target[there] *= foreground[there]
                part.delete()

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
def _make_ready(volume, inside, scaling, box, inner, matrices, thick_axis):
    """The network's volume (D, H, W, c) from the stored box: scaled, resampled with order 3, zeros around.

    scaling, inside: as `scale`. box, inner: (2, 3) origin and extent of the box in what is stored, and in the result.
    """
    here = _inside(volume.shape, box)
    scaled = scale(volume, scaling, inside)
    if matrices is None:
        return jnp.where(here, scaled, 0)
    y = resample(scaled, matrices, thick_axis, clip=True, inside=here)
    return jnp.where(_inside(y.shape, inner), y, 0)


@functools.partial(jax.jit, static_argnames=("threshold", "kind", "regions"))
def _decide_on_device(evidence, matrices, threshold, kind, regions):
    """Label and foreground probability on the stored box, from evidence on the network's volume; slab by slab."""
    if matrices is not None:
        evidence = resample(evidence, matrices, clip=False)
    label, probability = decide(foreground_probabilities(evidence, kind), threshold, regions)
    return [(label[slab], probability[slab]) for slab in slabs_of(len(label), _PARTS)]


def _inside(shape: Sequence[int], box: jax.Array) -> jax.Array:
    """Boolean (D, H, W, 1): the voxels of a box given by its origin and extent (2, 3)."""
    d, h, w = (
        (jnp.arange(n) >= o) & (jnp.arange(n) < o + e) for n, o, e in zip(shape[:3], box[0], box[1], strict=True)
    )
    return d[:, None, None, None] & h[:, None, None] & w[:, None]


def _placement(properties: Properties, window: Window) -> tuple[list[int], list[int], _Resampling]:
    """First voxels of the scan in the network's volume and of the box in what is stored, and the way between them."""
    inner, outer = properties.resampled_shape, properties.box_shape
    before = [b for b, _ in pad_to_patch(inner, window.patch_size)]
    if inner == outer:
        return before, before, _Resampling()
    bucket = bucket_shape(inner, window.patch_size, window.bucket)
    return before, [0, 0, 0], _Resampling.between(properties, before, _stored_shape(outer, window), bucket)


def _stored_shape(outer: Sequence[int], window: Window) -> tuple[int, ...]:
    return bucket_shape(outer, (1, 1, 1), window.bucket)


def _nearest(mask: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A mask (d, h, w) on another grid over the same extent."""
    return mask[np.ix_(*(nearest_index(n, m) for n, m in zip(mask.shape, shape, strict=True)))]


def _in_zeros(array: np.ndarray, shape: Sequence[int], origin: Sequence[int]) -> np.ndarray:
    stored = np.zeros((*shape, *array.shape[3:]), array.dtype)
    copy_slabs(stored[tuple(slice(o, o + n) for o, n in zip(origin, array.shape[:3], strict=True))], array)
    return stored


def _placed(matrix: np.ndarray, shape: tuple[int, int], corner: tuple[int, int]) -> np.ndarray:
    """A float32 matrix of `shape` that holds `matrix` at `corner` and zeros elsewhere."""
    placed = np.zeros(shape, np.float32)
    placed[corner[0] : corner[0] + matrix.shape[0], corner[1] : corner[1] + matrix.shape[1]] = matrix
    return placed
