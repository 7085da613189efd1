"""One scan in, mask and probability on the same grid out."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import time
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import nibabel as nib
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mednext_jax.errors import InputError, is_out_of_memory
from mednext_jax.inference.on_device import Boxed, Stored, segment, store, to_host
from mednext_jax.inference.sliding_window import Network, Window
from mednext_jax.inference.tile_batch import choose_tile_batch
from mednext_jax.io.brain_masks import read_brain
from mednext_jax.io.nifti import Grid, from_volume, image_like, read_scan, to_volume
from mednext_jax.io.voxels import Source
from mednext_jax.kernels.best_ops import best_ops
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.model.mednext import MedNeXt
from mednext_jax.preprocess.clean import clean, packages
from mednext_jax.preprocess.crop import nonzero_box, nonzero_region
from mednext_jax.preprocess.normalise import find_scaling
from mednext_jax.preprocess.pipeline import Properties, place_scan
from mednext_jax.weights.directory import Model, load_models

_LOG = logging.getLogger(__name__)
Scan = Source
# Recipe fields that decide what the network sees and what its output means: one ensemble, one recipe.
SHARED_FIELDS = (
    *("channel_names", "labels", "regions_class_order", "patch_size", "spacing", "orientation", "cleaning"),
    *("crop_to_nonzero", "normalisation", "use_mask_for_norm", "intensity_properties", "mirror_axes", "average"),
)


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A scan that was read, and the box of it that goes to the device."""

    stored: Stored
    grid: Grid
    seconds: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Computed:
    """What `segment` returned for a scan, which lies on the device, and where it belongs."""

    decided: list[tuple[jax.Array, jax.Array]]
    origin: list[int]  # of the box in what was stored
    placed: Properties
    grid: Grid
    seconds: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Result:
    """A segmented scan; both images lie on the grid of the input file (affine, sform, qform, units).

    mask: uint8; 0 background, else the label. probability: float32, of any foreground.
    seconds: wall time of each stage.
    """

    mask: nib.Nifti1Image
    probability: nib.Nifti1Image
    seconds: dict[str, float]


class Predictor:
    """Segments scans with a model or an ensemble of models (directories, or `Model`s in memory).

    step: distance of tiles as a fraction of the patch. tta: average over mirrors (the recipe's `mirror_axes`).
    threshold: a voxel is foreground if its foreground probability is above; None takes the recipe's (0.5 equals the
    argmax of two classes); with three or more classes None is the argmax.
    tile_batch: tiles computed at once by a device; None chooses by its free memory. Halved when memory runs out.
    devices: those that share the tiles of a scan; None takes all of this process.
    skip_background: leave out tiles without a non-zero voxel of the scan. Their answer is taken to be background, and
    voxels that they would have shared with computed tiles change a little.
    Attributes: paths (of the models; None for one in memory), recipe, threshold, window, skip_background.
    Raises InputError for a model directory that is not whole, or models with different recipes.
    """

    def __init__(
        self,
        models: Model | str | os.PathLike | Sequence[Model | str | os.PathLike],
        *,
        step: float = 0.5,
        tta: bool = True,
        threshold: float | None = None,
        tile_batch: int | None = None,
        devices: Sequence[jax.Device] | None = None,
        skip_background: bool = False,
    ):
        listed = [models] if isinstance(models, Model | str | os.PathLike) else list(models)
        loaded = [m for item in listed for m in ([item] if isinstance(item, Model) else load_models(item))]
        if not loaded:
            raise InputError("No model was named.", expected="at least one model directory")
        if not 0 < step <= 1:
            raise InputError("The tile step is not a part of the patch.", expected="above 0, at most 1", found=step)
        if threshold is not None and not 0 <= threshold < 1:
            raise InputError("The threshold is not a probability.", expected="from 0 to below 1", found=threshold)
        _require_one_recipe(loaded)
        self.paths = [model.path for model in loaded]
        self.recipe = loaded[0].recipe
        packages(self.recipe.cleaning)  # before any work
        self.threshold = self.recipe.read_out if threshold is None else threshold
        devices = jax.local_devices() if devices is None else devices
        self.window = Window(
            self.recipe.patch_size,
            step,
            tuple(self.recipe.mirror_axes) if tta else (),
            self.recipe.average,
            tile_batch
            or min(choose_tile_batch(_for_device(m.config), self.recipe.patch_size, devices[0]) for m in loaded),
            mesh=None if len(devices) == 1 else Mesh(np.array(devices), ("tiles",)),
            regions=self.recipe.regions_class_order,
        )
        self.skip_background = skip_background
        place = None if self.window.mesh is None else NamedSharding(self.window.mesh, PartitionSpec())
        configs = [_for_device(m.config) for m in loaded]
        self._networks = [
            Network(network_of(config), jax.device_put(products_in(config.dtype, m.params), place))
            for config, m in zip(configs, loaded, strict=True)
        ]

    def __call__(self, scan: Scan | Sequence[Scan], brain_mask: str | os.PathLike | None = None) -> Result:
        """Segment one scan: a NIfTI file, nibabel image or array (x, y, z; 1 mm), or a list of them, one a channel.

        brain_mask: the file of its brain mask, for a model whose training scans were brain-extracted by one.
        Raises InputError for a scan that cannot be read or has another number of channels than the model.
        """
        return self.finish(self.infer(self.load(scan, brain_mask)))

    def load(self, scan: Scan | Sequence[Scan], brain_mask: str | os.PathLike | None = None) -> Loaded:
        """The host's first part: read, turn, clean, find the non-zero box and the intensity scaling, store the box."""
        start = time.perf_counter()
        channels = list(scan) if isinstance(scan, Iterable) and not isinstance(scan, Scan) else [scan]
        names = self.recipe.channel_names
        if len(channels) != len(names):
            raise InputError(
                "The scan has another number of channels than the model.",
                file=", ".join(str(c) for c in channels if isinstance(c, str | os.PathLike)) or None,
                expected=f"{len(names)}: {', '.join(names)}",
                found=len(channels),
                hint="give one file for each channel, in this order",
            )
        images = [read_scan(c) for c in channels]
        volume, spacing, grid = to_volume(images, self.recipe.orientation)
        read = time.perf_counter()
        brain = None if brain_mask is None else read_brain(brain_mask, images[0], grid)
        volume = clean(volume, spacing, self.recipe.cleaning, brain)
        stored = store(self._box(volume, spacing), self.window, skip_background=self.skip_background)
        seconds = {"read": read - start, "prepare": time.perf_counter() - read}
        return Loaded(stored, grid, seconds)

    def infer(self, loaded: Loaded) -> Computed:
        """The device's part, `segment`; it has computed when this returns."""
        start = time.perf_counter()
        decided = self._segment(loaded.stored)
        seconds = {**loaded.seconds, "device": time.perf_counter() - start}
        return Computed(decided, loaded.stored.origin, loaded.stored.properties, loaded.grid, seconds)

    def _segment(self, stored: Stored) -> list[tuple[jax.Array, jax.Array]]:
        """`segment` with as many tiles at once as the device's memory turns out to hold."""
        while True:
            try:
                return jax.block_until_ready(segment(stored, self._networks, self.window, self.threshold))
            except jax.errors.JaxRuntimeError as error:
                if self.window.tile_batch == 1 or not is_out_of_memory(error):
                    raise
            fewer = self.window.tile_batch // 2
            _LOG.warning("out of memory with %d tiles at once: going on with %d", self.window.tile_batch, fewer)
            self.window = dataclasses.replace(self.window, tile_batch=fewer)

    def finish(self, computed: Computed) -> Result:
        """The host's last part: from the device, and from the box to the scan's grid, as images."""
        start = time.perf_counter()
        grid, placed = computed.grid, computed.placed
        box = tuple(slice(o, o + n) for o, n in zip(placed.box_start, placed.box_shape, strict=True))
        images = []
        for array in to_host(computed.decided, computed.origin, placed.box_shape):
            whole = array
            if array.shape != placed.shape:
                whole = np.zeros(placed.shape, array.dtype)
                whole[box] = array
            images.append(image_like(from_volume(whole, grid), grid, array.dtype))
        return Result(images[0], images[1], {**computed.seconds, "finish": time.perf_counter() - start})

    def _box(self, volume: np.ndarray, spacing: Sequence[float]) -> Boxed:
        recipe = self.recipe
        needs_filled = recipe.use_mask_for_norm and "zscore" in recipe.normalisation
        mask, box = nonzero_region(volume) if needs_filled else nonzero_box(volume)
        if not recipe.crop_to_nonzero:
            d, h, w = volume.shape[:3]
            whole = np.zeros((d, h, w), bool)
            whole[box] = mask
            mask, box = whole, (slice(0, d), slice(0, h), slice(0, w))
        scaling = find_scaling(
            volume[box], recipe.normalisation, mask, recipe.use_mask_for_norm, recipe.intensity_properties
        )
        return Boxed(volume[box], mask, scaling, place_scan(volume.shape[:3], box, spacing, recipe.spacing))


@functools.cache
def network_of(config: MedNeXtConfig):
    """One function for each architecture, so that models of one ensemble share a compiled program."""
    net = MedNeXt(config, best_ops(dtype=config.dtype, norm=config.norm, grn=config.grn))

    def apply(params, x):
        return net.apply({"params": params}, x)

    return apply


def _for_device(config: MedNeXtConfig) -> MedNeXtConfig:
    """Float32 on a CPU, which gains nothing from bfloat16; nothing is differentiated, so nothing is recomputed."""
    dtype = "float32" if jax.default_backend() == "cpu" else config.dtype
    return dataclasses.replace(config, dtype=dtype, remat="none")


def products_in(dtype: str, params: Any) -> Any:
    """`params` with the kernels of 1x1x1 convolutions in the network's type, to which each tile would convert them.

    On the host, where it needs no program for each shape.
    """

    def convert(path: Any, leaf: Any) -> Any:
        return np.asarray(leaf).astype(dtype) if path[-1].key == "kernel" and leaf.ndim == 2 else leaf

    return jax.tree_util.tree_map_with_path(convert, params)


def _require_one_recipe(models: Sequence[Model]) -> None:
    first = models[0]
    for model in models[1:]:
        for name in SHARED_FIELDS:
            one, other = getattr(first.recipe, name), getattr(model.recipe, name)
            if one != other:
                raise InputError(
                    f"The models of an ensemble have different recipes: {name}.",
                    file=model.path,
                    expected=f"{one} as in {first.path}",
                    found=other,
                    hint="average only models that were trained with one preparation",
                )
