"""What the page's viewer shows: scan, probability and clusters on one small grid of 8 and 16-bit voxels.

The browser inflates one stored volume and cuts all three planes from it. zlib is in Python and in every browser, so the
package needs no image library, and no voxel is changed by a lossy compression; what is changed to keep a page small
(grey levels, voxels averaged) is said on it.
"""

from __future__ import annotations

import base64
import dataclasses
import zlib
from collections.abc import Mapping

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes

from mednext_jax.quantify.members import ENTROPY, SD_FOLDS, SD_MIRRORS

# Of the voxels above the scan's lowest value: what is darkest and brightest in the viewer.
DARKEST, BRIGHTEST = 0.03, 99.8
MARGIN_MM = 10.0  # kept around the head, for the letters of the edges
# A plane belongs to the head if this part of it is brighter than the air.
HEAD_PART = 0.002
# A scan is empty at 0 if this part of it is exactly that.
EMPTY_PART = 0.05
GREY_LEVELS = (256, 128, 64)
# Of the maps of uncertainty: what is brightest. A standard deviation of numbers between 0 and 1 seldom exceeds 0.5.
MAP_TOPS = {SD_FOLDS: 0.5, SD_MIRRORS: 0.5, ENTROPY: 1.0}
SAMPLED = 8  # planes of a volume from whose size the whole is judged


@dataclasses.dataclass(frozen=True)
class ViewVolume:
    """A scan as the viewer shows it, axes to right, anterior, superior.

    scan: uint8 (x, y, z), 0 to 255; None if the scan was not found. probability: uint8, 255 is 1; None if not there.
    clusters: uint16 or uint32. affine: voxels to mm. window: which of the scan's intensities are 0 and 255.
    levels: grey levels left. reduced: voxels averaged along each axis. maps: of uncertainty, uint8 (x, y, z), 255 is
    that of `MAP_TOPS`.
    """

    scan: np.ndarray | None
    probability: np.ndarray | None
    clusters: np.ndarray
    affine: np.ndarray
    window: tuple[float, float]
    levels: int = 256
    reduced: tuple[int, int, int] = (1, 1, 1)
    maps: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        x, y, z = self.clusters.shape
        return x, y, z

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """mm along x, y, z."""
        x, y, z = voxel_sizes(self.affine)
        return float(x), float(y), float(z)

    @property
    def background(self) -> np.ndarray:
        """What lies below the clusters: the scan, or the probability where the scan was not found."""
        if self.scan is not None:
            return self.scan
        return np.zeros(self.shape, np.uint8) if self.probability is None else self.probability


def view_volume(
    scan: nib.Nifti1Image | None,
    probability: nib.Nifti1Image | None,
    clusters: nib.Nifti1Image,
    maps: Mapping[str, nib.Nifti1Image] | None = None,
) -> ViewVolume:
    """Images on one grid, turned, cropped to the head and the clusters, as 8-bit voxels."""
    canonical = nib.as_closest_canonical(clusters)
    labels = np.asanyarray(canonical.dataobj)
    window, grey = (0.0, 1.0), None
    seen = labels > 0
    if scan is not None:
        values = np.asanyarray(nib.as_closest_canonical(scan).dataobj)
        window = _window(values)
        seen = seen | (values > window[0])
    box = _box(seen, labels > 0, voxel_sizes(canonical.affine))
    if scan is not None:
        low, high = window
        grey = np.clip((values[box] - np.float32(low)) * np.float32(255 / (high - low)), 0, 255)
        grey = np.asfortranarray(np.rint(grey).astype(np.uint8))
    likely = None if probability is None else _in_bytes(probability, box, 1.0)
    unsure = {name: _in_bytes(image, box, MAP_TOPS[name]) for name, image in (maps or {}).items()}
    affine = canonical.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [part.start for part in box]
    small = np.uint16 if labels.max(initial=0) < 2**16 else np.uint32
    return ViewVolume(grey, likely, np.asfortranarray(labels[box].astype(small)), affine, window, maps=unsure)


def _in_bytes(image: nib.Nifti1Image, box: tuple[slice, slice, slice], top: float) -> np.ndarray:
    values = np.asanyarray(nib.as_closest_canonical(image).dataobj)[box]
    return np.asfortranarray(np.rint(np.clip(values, 0, top) * (255 / top)).astype(np.uint8))


def fitted(volume: ViewVolume, limit: int) -> ViewVolume:
    """The volume with as many grey levels and voxels as `limit` bytes of text (`packed`) hold."""
    while True:
        for levels in GREY_LEVELS:
            if _estimated(volume, levels) <= limit or min(volume.shape) < 2:
                return volume if levels == 256 else _with_levels(volume, levels)
        volume = _halved(volume)


def packed(array: np.ndarray) -> str:
    """The voxels, x fastest, little-endian, deflated, as base64 text."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return base64.b64encode(zlib.compress(little.tobytes("F"), 6)).decode("ascii")


def inner_voxels(labels: np.ndarray, affine: np.ndarray) -> dict[int, tuple[int, int, int]]:
    """Cluster -> its voxel next to its centroid, which itself may lie outside a curved cluster."""
    index = np.argwhere(labels > 0)
    if not len(index):
        return {}
    owner = labels[tuple(index.T)].astype(np.int64)
    count = np.bincount(owner)
    points = index * voxel_sizes(affine)
    centre = np.stack([np.bincount(owner, p) for p in points.T], 1) / np.maximum(count, 1)[:, None]
    away = ((points - centre[owner]) ** 2).sum(1)
    order = np.lexsort((away, owner))
    first = order[np.unique(owner[order], return_index=True)[1]]
    return {int(owner[i]): (int(index[i, 0]), int(index[i, 1]), int(index[i, 2])) for i in first}


def _window(values: np.ndarray) -> tuple[float, float]:
    """Intensities shown black and white: air is black, the brightest vessels and eyes white."""
    part = values[:: max(1, values.shape[0] // 96), :: max(1, values.shape[1] // 96)]
    # Where the brain was extracted, resampling may have left values below the empty 0.
    lowest = 0.0 if (part == 0).mean() > EMPTY_PART else float(values.min())
    above = part[part > lowest]
    high = float(np.percentile(above, BRIGHTEST)) if above.size else float(values.max())
    high = high if high > lowest else float(values.max())
    return lowest + DARKEST * (high - lowest), high


def _box(seen: np.ndarray, clusters: np.ndarray, sizes: np.ndarray) -> tuple[slice, slice, slice]:
    parts = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        of_head = np.flatnonzero(seen.mean(others) > HEAD_PART)
        used = np.union1d(of_head, np.flatnonzero(clusters.any(others)))
        start, stop = (used[0], used[-1] + 1) if used.size else (0, seen.shape[axis])
        margin = round(MARGIN_MM / sizes[axis])
        parts.append(slice(int(max(0, start - margin)), int(min(seen.shape[axis], stop + margin))))
    x, y, z = parts
    return x, y, z


def _estimated(volume: ViewVolume, levels: int) -> float:
    """Bytes of `packed` of all arrays with so many grey levels, from some planes."""
    count = volume.shape[2]
    planes = np.linspace(0, count - 1, min(SAMPLED, count)).astype(int)
    total = len(packed(volume.clusters[:, :, planes]))
    total += sum(
        len(packed(_coarser(a[:, :, planes], levels)))
        for a in (volume.scan, volume.probability, *volume.maps.values())
        if a is not None
    )
    return 1.05 * total * count / len(planes)  # a little more: the planes are few


def _with_levels(volume: ViewVolume, levels: int) -> ViewVolume:
    grey, likely = (None if a is None else _coarser(a, levels) for a in (volume.scan, volume.probability))
    maps = {name: _coarser(a, levels) for name, a in volume.maps.items()}
    return dataclasses.replace(volume, scan=grey, probability=likely, levels=levels, maps=maps)


def _coarser(array: np.ndarray, levels: int) -> np.ndarray:
    """uint8 values in so many levels, each in the middle of what it stands for; 0 stays 0."""
    step = 256 // levels
    values = np.arange(256)
    table = np.where(values > 0, values // step * step + step // 2, 0).astype(np.uint8)
    return table[array]


def _halved(volume: ViewVolume) -> ViewVolume:
    """Two voxels in one along the axes with the smallest voxels; of clusters and probabilities the larger one stays."""
    sizes = np.array(volume.voxel_size)
    fine = (sizes < 1.5 * sizes.min()) & (np.array(volume.shape) > 1)
    factors = tuple(2 if small else 1 for small in fine)
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [(f - 1) / 2 for f in factors]
    affine[:3, :3] *= factors
    grey, likely = volume.scan, volume.probability
    x, y, z = (old * new for old, new in zip(volume.reduced, factors, strict=True))
    return ViewVolume(
        None if grey is None else np.asfortranarray(np.rint(_blocks(grey, factors).mean((1, 3, 5))).astype(np.uint8)),
        None if likely is None else np.asfortranarray(_blocks(likely, factors).max((1, 3, 5))),
        np.asfortranarray(_blocks(volume.clusters, factors).max((1, 3, 5))),
        affine,
        volume.window,
        reduced=(x, y, z),
        maps={name: np.asfortranarray(_blocks(a, factors).max((1, 3, 5))) for name, a in volume.maps.items()},
    )


def _blocks(array: np.ndarray, factors: tuple[int, ...]) -> np.ndarray:
    """(x, y, z) -> (x / fx, fx, y / fy, fy, z / fz, fz); the last planes are repeated where they do not go evenly."""
    more = [(0, -n % f) for n, f in zip(array.shape, factors, strict=True)]
    array = np.pad(array, more, mode="edge")
    (x, y, z), (fx, fy, fz) = array.shape, factors
    return array.reshape(x // fx, fx, y // fy, fy, z // fz, fz)
