"""Steps of a prediction written a second time and plainly, on the host, to compare the compiled ones with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from scipy.ndimage import gaussian_filter

from mednext_jax.inference.sliding_window import Network, Window, starts_with, window_on_device
from mednext_jax.inference.tiles import bucket_shape, pad_to_patch, tile_starts
from mednext_jax.ops.resample import find_thick_axis, resize
from mednext_jax.preprocess.trip import Properties

Array = TypeVar("Array", np.ndarray, jax.Array)


def gaussian_weights(patch: Sequence[int]) -> np.ndarray:
    """Weights of a tile's voxels as nnU-Net makes them, by filtering a delta: shape `patch`, float64, at most 1."""
    delta = np.zeros(tuple(patch))
    delta[tuple(p // 2 for p in patch)] = 1
    filtered = gaussian_filter(delta, [p / 8 for p in patch], mode="constant")
    return filtered / filtered.max()


def sliding_window(
    window: Window, networks: Sequence[Network], volume: np.ndarray, *, keep: np.ndarray | None = None
) -> np.ndarray:
    """Evidence (d, h, w, n) float32 for a preprocessed `volume` (d, h, w, c) on the host, averaged over networks.

    A volume smaller than the patch is padded with zeros on both sides (nnU-Net's rule) and cropped again.
    keep: boolean (d, h, w); tiles without a true voxel are not computed, and what no tile covers is background.
    """
    spatial, patch = volume.shape[:3], window.patch_size
    before = [b for b, _ in pad_to_patch(spatial, patch)]
    starts = tile_starts([max(s, p) for s, p in zip(spatial, patch, strict=True)], patch, window.step)
    if keep is not None:
        starts = starts_with(keep, starts, before, patch)
    inside = tuple(slice(b, b + s) for b, s in zip(before, spatial, strict=True))
    stored = np.zeros((*bucket_shape(spatial, patch, window.bucket), volume.shape[3]), np.float32)
    stored[inside] = volume
    return np.asarray(window_on_device(window, networks, jnp.asarray(stored), starts))[inside]


def restore(array: Array, properties: Properties, fill: float = 0.0) -> Array:
    """A map on the preprocessed grid, (d, h, w) or (d, h, w, c) -> the same on the grid of the whole scan.

    Linear resampling back to the box (nnU-Net's export), `fill` outside the box. NumPy or JAX.
    """
    thick_axis = find_thick_axis(properties.resampled_spacing, properties.spacing)
    boxed = resize(array, properties.box_shape, 1, thick_axis)
    margins = [
        (start, whole - start - size)
        for start, size, whole in zip(properties.box_start, properties.box_shape, properties.shape, strict=True)
    ]
    margins += [(0, 0)] * (array.ndim - 3)
    library = jnp if isinstance(array, jax.Array) else np
    return library.pad(boxed, margins, constant_values=fill)
