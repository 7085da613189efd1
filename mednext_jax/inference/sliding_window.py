"""The sliding window: one compiled program per shape bucket that runs a network over all tiles of a volume.

What is accumulated is the network's *evidence* for the foreground classes, (d, h, w, num_classes - 1): logits minus
the background's logit, or softmax probabilities. Both determine the rest, so that a binary network needs one channel.
For overlapping regions it is their logits, (d, h, w, num_classes).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mednext_jax.inference import tiles

Params = Any
# A logit difference that stands for "background, no doubt": exp(-30) = 1e-13, and still exact in float32 sums.
BACKGROUND_LOGIT = -30.0


class Network(NamedTuple):
    """A function and its parameters. One function for models of one architecture: they share a program.

    apply: (params, x (n, d, h, w, c) float32) -> logits (n, d, h, w, num_classes), or a tuple with these first.
    """

    apply: Callable[[Params, jax.Array], Any]
    params: Params


@dataclasses.dataclass(frozen=True)
class Window:
    """How networks are moved over a volume; hashable, because a program is compiled for each value.

    patch_size: voxels (d, h, w). step: distance of tiles as a fraction of the patch.
    mirror_axes: axes (0, 1, 2 = d, h, w) mirrored in all combinations and averaged; () switches this off.
    average: 'logits' as nnU-Net v2, or 'softmax' as v1, over mirrors, tiles and networks.
    tile_batch: tiles computed at once by a device. bucket: volumes are stored in multiples of this, to share programs.
    mesh: of one axis, the devices that share the tiles and the depth of the evidence; None is one device.
    """

    patch_size: tuple[int, int, int]
    step: float = 0.5
    mirror_axes: tuple[int, ...] = (0, 1, 2)
    average: str = "logits"
    tile_batch: int = 1
    bucket: int = 64
    mesh: Mesh | None = None
    regions: tuple[int, ...] | None = None  # the recipe's regions_class_order
    temperature: float = 1.0  # that logits are divided by

    @property
    def tiles_at_once(self) -> int:
        """Tiles computed at once by all devices."""
        return self.tile_batch * (1 if self.mesh is None else self.mesh.size)

    @property
    def background(self) -> float:
        """The evidence that stands for certain background."""
        return 0.0 if self.kind == "softmax" else BACKGROUND_LOGIT

    @property
    def kind(self) -> str:
        """What the evidence is: 'logits' or 'softmax' of classes, or 'sigmoid': the logits of regions."""
        return self.average if self.regions is None else "sigmoid"


def window_on_device(
    window: Window,
    networks: Sequence[Network],
    volume: jax.Array,
    starts: np.ndarray,
    progress: Callable[[int, int], None] | None = None,
) -> jax.Array:
    """Evidence (D, H, W, num_classes - 1) for a `volume` (D, H, W, c) that lies on the device in its bucket.

    starts: (n, 3) int32, the tiles inside the true volume. The result outside them is background. progress: is called
    with (tiles computed, all tiles of all networks) after each round, for which the host then waits; the sums are the
    same.
    """
    shape = volume.shape[:3]
    capacity = len(tiles.tile_starts(shape, window.patch_size, window.step))  # the same for the whole bucket
    capacity = -(-capacity // window.tiles_at_once) * window.tiles_at_once
    table = np.zeros((capacity, 3), np.int32)
    table[: len(starts)] = starts
    total, weight = _accumulators(window, *networks[0], volume)
    count, at_once = len(starts), window.tiles_at_once
    rounds = -(-count // at_once)
    for i, (apply, params) in enumerate(networks):
        for first, last in [(0, rounds)] if progress is None else [(r, r + 1) for r in range(rounds)]:
            limits = np.array([first, last, count], np.int32)
            total, weight = _add_tiles(window, apply, params, volume, table, limits, total, weight)
            if progress is not None:
                jax.block_until_ready(total)
                progress(i * count + min(last * at_once, count), len(networks) * count)
    return _average(window, total, weight, shape[0])


def foreground_probabilities(evidence: jax.Array | np.ndarray, kind: str) -> jax.Array:
    """Probabilities (..., num_classes - 1) of the foreground classes; what is missing to 1 is background.

    Of regions (`kind` 'sigmoid') each its own (..., num_classes).
    """
    evidence = jnp.asarray(evidence)
    if kind == "softmax":
        return evidence
    if kind == "sigmoid":
        return jax.nn.sigmoid(evidence)
    background = jnp.zeros_like(evidence[..., :1])
    return jax.nn.softmax(jnp.concatenate([background, evidence], -1), -1)[..., 1:]


def starts_with(keep: np.ndarray, starts: np.ndarray, before: list[int], patch: tuple[int, ...]) -> np.ndarray:
    """The starts of those tiles that hold a true voxel of `keep` (d, h, w), which lies at `before` in the volume."""
    chosen = []
    for start in starts:
        low = np.maximum(start - before, 0)
        high = np.maximum(start - before + patch, 0)
        if keep[tuple(map(slice, low, high))].any():
            chosen.append(start)
    return np.array(chosen, np.int32).reshape(-1, 3)


def _evidence(window: Window, apply: Callable, params: Params, x: jax.Array) -> jax.Array:
    """Evidence (n, d, h, w, num_classes - 1) of a batch of tiles (n, d, h, w, c), without mirrors."""
    logits = apply(params, x)
    if isinstance(logits, tuple):
        logits = logits[0]  # deep supervision: full resolution first
    logits = logits.astype(jnp.float32)
    if window.temperature != 1:
        logits = logits / window.temperature
    if window.kind == "sigmoid":
        return logits
    if window.kind == "softmax":
        return jax.nn.softmax(logits, -1)[..., 1:]
    return logits[..., 1:] - logits[..., :1]


def _mirrored_evidence(window: Window, apply: Callable, params: Params, x: jax.Array) -> jax.Array:
    """Evidence averaged over all mirrors; a loop, so that the network is compiled once and not eight times."""
    if not window.mirror_axes:
        return _evidence(window, apply, params, x)
    subsets = np.array(list(itertools.product([False, True], repeat=len(window.mirror_axes))))  # (mirrors, axes)

    def flip(x, chosen):
        for axis, flag in zip(window.mirror_axes, chosen, strict=True):
            x = jnp.where(flag, jnp.flip(x, 1 + axis), x)
        return x

    def add(total, chosen):
        return total + flip(_evidence(window, apply, params, flip(x, chosen)), chosen), None

    shape = jax.eval_shape(functools.partial(_evidence, window, apply), params, x)
    total, _ = lax.scan(add, jnp.zeros(shape.shape, shape.dtype), subsets)
    return total / len(subsets)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _accumulators(window: Window, apply: Callable, params: Params, volume: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Zeros (D, H, W, num_classes - 1) and (D, H, W, 1); with a mesh split along D, which it then divides."""
    tile = jax.ShapeDtypeStruct((1, *window.patch_size, volume.shape[3]), jnp.float32)
    channels = jax.eval_shape(functools.partial(_evidence, window, apply), params, tile).shape[-1]
    parts = 1 if window.mesh is None else window.mesh.size
    shape = (-(-volume.shape[0] // parts) * parts, *volume.shape[1:3])
    zeros = jnp.zeros((*shape, channels)), jnp.zeros((*shape, 1))
    if window.mesh is None:
        return zeros
    return lax.with_sharding_constraint(zeros, NamedSharding(window.mesh, PartitionSpec(window.mesh.axis_names[0])))


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(6, 7))
def _add_tiles(window, apply, params, volume, table, limits, total, weight):
    """Add Gaussian-weighted evidence of tiles of `table` (n, 3) to `total`, and the weights.

    limits: (3,) int32, the first round of tiles, the one after the last, and how many tiles of the table there are.
    """
    add = functools.partial(_add_tiles_here, window, apply)
    if window.mesh is not None:
        part, whole = PartitionSpec(window.mesh.axis_names[0]), PartitionSpec()
        in_specs = (whole, whole, whole, whole, part, part)
        add = jax.shard_map(add, mesh=window.mesh, in_specs=in_specs, out_specs=part, check_vma=False)
    return add(params, volume, table, limits, total, weight)


def _add_tiles_here(window, apply, params, volume, table, limits, total, weight):
    """One device's work: its share of the tiles, and of every tile the planes that lie in its slab of depth.

    Tiles are added in the order of the table on any number of devices, so that the sums are the same.
    """
    batch, patch, at_once = window.tile_batch, window.patch_size, window.tiles_at_once
    profiles = [tiles.gaussian_profile(p) for p in patch]
    gaussian = profiles[0][:, None, None, None] * profiles[1][:, None, None] * profiles[2][:, None]
    axis = None if window.mesh is None else window.mesh.axis_names[0]
    here = 0 if axis is None else lax.axis_index(axis)
    planes = total.shape[0]

    def one_round(i, sums):
        starts = lax.dynamic_slice(table, (i * at_once + here * batch, 0), (batch, 3))
        x = jnp.stack([lax.dynamic_slice(volume, (*starts[b], 0), (*patch, volume.shape[3])) for b in range(batch)])
        evidence = _mirrored_evidence(window, apply, params, x)  # (batch, d, h, w, channels)
        if axis is not None:
            evidence = lax.all_gather(evidence, axis, tiled=True)  # (at_once, d, h, w, channels)

        def add_one(b, sums):
            total, weight = sums
            index = i * at_once + b
            d, h, w = table[index]
            tile_weight = gaussian * (index < limits[2])  # the table's unused rows count nothing
            tile = evidence[b] * tile_weight
            if axis is not None:
                d, tile, tile_weight = _in_slab(d - here * planes, planes, tile, tile_weight)
            corner = (d, h, w, 0)
            return _add_at(total, corner, tile), _add_at(weight, corner, tile_weight)

        return lax.fori_loop(0, at_once, add_one, sums)

    # The trip count is a value, not a shape: volumes of one bucket differ in tiles and share the program.
    return lax.fori_loop(limits[0], limits[1], one_round, (total, weight))


def _in_slab(start, planes, *tiles):
    """Where tiles (d, h, w, c) at plane `start` of a slab of `planes` are to be added to it, and their part of it.

    `start` may be negative or behind the slab; what of a tile is not the slab's is cut, with zeros in its place.
    """
    depth = tiles[0].shape[0]
    rows = min(depth, planes)
    row = jnp.clip(start, 0, planes - rows)
    first = rows + jnp.clip(row - start, -rows, depth)  # of the tile with `rows` zeros around
    padding = ((rows, rows), (0, 0), (0, 0), (0, 0))
    return row, *(lax.dynamic_slice_in_dim(jnp.pad(tile, padding), first, rows) for tile in tiles)


def _add_at(array, corner, tile):
    here = lax.dynamic_slice(array, corner, tile.shape)
    return lax.dynamic_update_slice(array, here + tile, corner)


@functools.partial(jax.jit, static_argnums=(0, 3), donate_argnums=1)
def _average(window, total, weight, planes):
    average = jnp.where(weight > 0, total / jnp.where(weight > 0, weight, 1), window.background)
    return average[:planes]
