"""One scan in, mask and probability on the same grid out."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import jax
import nibabel as nib
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mednext_jax.errors import InputError, Problem, is_out_of_memory, shown
from mednext_jax.hub.open_model import open_models
from mednext_jax.inference.flags import skull_flag
from mednext_jax.inference.on_device import (
    BACKGROUNDS,
    LoadedScan,
    Slabs,
    compute_evidence,
    decide_box,
    load_box,
    to_host,
)
from mednext_jax.inference.sliding_window import Network, Window
from mednext_jax.inference.tile_batch import choose_tile_batch
from mednext_jax.io.brain_masks import read_brain
from mednext_jax.io.contrast import scan_contrast
from mednext_jax.io.geometry import voxel_warnings
from mednext_jax.io.nifti import Grid, channel_problems, from_volume, image_like, read_scan, to_volume
from mednext_jax.io.voxels import Source, is_array
from mednext_jax.kernels.best_ops import best_ops
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.model.mednext import MedNeXt
from mednext_jax.preprocess.clean import STEPS, clean, packages
from mednext_jax.preprocess.crop import Region, find_region
from mednext_jax.preprocess.normalise import find_scaling
from mednext_jax.preprocess.preprocessing import Preprocessing
from mednext_jax.preprocess.trip import Properties, place_scan
from mednext_jax.weights.directory import Model, notice_of
from mednext_jax.weights.recipe import Recipe
from mednext_jax.weights.threshold_table import row_for

_LOG = logging.getLogger(__name__)
# Recipe fields in which the models of an ensemble may differ: thresholds are the first one's.
FREE_FIELDS = ("threshold", "thresholds", "brain_extracted")


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """A segmented scan. Mask and probability leave the device when one of them is first asked for.

    mask: uint8; 0 background, else the label. probability: float32, of any foreground. Both lie on the grid of the
    input file (affine, sform, qform, units). seconds: wall time of each stage. threshold: that the mask was decided by;
    None: by the most probable class.
    """

    decided: Slabs
    origin: list[int]  # of the box in `decided`
    properties: Properties
    foreground: np.ndarray | None
    grid: Grid
    seconds: dict[str, float]
    brain_extracted: bool = False
    threshold: float | None = None

    @property
    def mask(self) -> nib.Nifti1Image:
        """The label of each voxel."""
        return self._images[0]

    @property
    def probability(self) -> nib.Nifti1Image:
        """The foreground probability of each voxel."""
        return self._images[1]

    @property
    def inside(self) -> np.ndarray | None:
        """What belongs to the extracted brain, boolean on the grid of the input file; None if that is not known."""
        if self.foreground is None:
            return None
        placed = self.properties
        whole = np.zeros(placed.shape, bool)
        whole[tuple(slice(o, o + n) for o, n in zip(placed.box_start, placed.box_shape, strict=True))] = self.foreground
        return from_volume(whole, self.grid)

    @functools.cached_property
    def _images(self) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
        label, probability = to_host(self.decided, self.origin, self.properties, self.foreground)
        grid = self.grid
        mask = image_like(from_volume(label, grid), grid, label.dtype)
        return mask, image_like(from_volume(probability, grid), grid, probability.dtype)


class Predictor:
    """Segments scans with a model or an ensemble of models: what `open_models` opens, or `Model`s in memory.

    step: distance of tiles as a fraction of the patch. tta: average over mirrors (the recipe's `mirror_axes`).
    threshold: a voxel is foreground if its foreground probability is above; None takes the recipe's (0.5 equals the
    argmax of two classes), where it has a table that of the scan's contrast and voxel size; with three or more classes
    None is the argmax.
    tile_batch: tiles computed at once by a device; None chooses by its free memory. Halved when memory runs out.
    devices: those that share the tiles of a scan; None takes all of this process.
    skip_background: leave out tiles without a non-zero voxel of the scan. Their answer is taken to be background, and
    voxels that they would have shared with computed tiles change a little.
    background: "auto": voxels that are 0 in every channel and connected to the border are background, and tiles that
    hold nothing else are not computed, if the scan's brain was extracted (judged by the share of these zeros).
    "compute": the network's answer stands everywhere, as nnU-Net's does.
    Attributes: paths (of the models; None for one in memory), given (the texts that they were opened from), configs (as
    they are computed here), recipe, threshold (of scans that have none of their own), thresholds (the table that is
    obeyed, empty if a threshold was given), window, skip_background, background, notices (a line of each model that
    wants something told of it), training_ranges (counts and volumes of the training's labels, of models that tell
    them).
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
        background: str = "auto",
    ):
        if not isinstance(models, Model | str | os.PathLike | Iterable):
            raise InputError("A model is a directory or a Model.", found=f"an object of type {type(models).__name__}")
        listed = [models] if isinstance(models, Model | str | os.PathLike) else list(models)
        opened = [(item, m) for item in listed for m in ([item] if isinstance(item, Model) else open_models(item))]
        loaded = [model for _, model in opened]
        if not loaded:
            raise InputError("No model was named.", expected="at least one model directory")
        if not (_is_real(step) and 0 < step <= 1):
            raise InputError("The tile step is not a part of the patch.", expected="above 0, at most 1", found=step)
        if threshold is not None and not (_is_real(threshold) and 0 <= threshold < 1):
            raise InputError("The threshold is not a probability.", expected="from 0 to below 1", found=threshold)
        if not (tile_batch is None or (isinstance(tile_batch, int) and tile_batch > 0)):
            raise InputError("tile_batch is no number of tiles.", expected="a whole number from 1", found=tile_batch)
        if background not in BACKGROUNDS:
            raise InputError(
                "The treatment of background is not known.", expected=" or ".join(BACKGROUNDS), found=background
            )
        _require_one_recipe(loaded)
        self.paths = [model.path for model in loaded]
        self.given = [None if isinstance(item, Model) else str(item) for item, _ in opened]
        self.recipe = loaded[0].recipe
        told = [model.provenance.get("training_range") for model in loaded]
        told_of = [(item, notice_of(m.provenance)) for item, m in opened]
        self.notices = list(
            dict.fromkeys(
                f"{shown('the model' if isinstance(item, Model) else item)}: {shown(notice)}"
                for item, notice in told_of
                if notice is not None
            )
        )
        self.training_ranges = [one for one in told if isinstance(one, Mapping)]
        packages(self.recipe.optional_steps)  # before any work
        self.threshold = self.recipe.decision_threshold if threshold is None else threshold
        self.thresholds = self.recipe.thresholds if threshold is None else ()
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
            temperature=float(self.recipe.temperature),
        )
        self.skip_background, self.background = skip_background, background
        place = None if self.window.mesh is None else NamedSharding(self.window.mesh, PartitionSpec())
        self.configs = [_for_device(m.config) for m in loaded]
        self._networks = [
            Network(network_of(config), jax.device_put(products_in(config.dtype, m.params), place))
            for config, m in zip(self.configs, loaded, strict=True)
        ]

    @property
    def networks(self) -> list[Network]:
        """The models, in their order."""
        return self._networks

    def __call__(self, scan: Source | Sequence[Source], brain_mask: Source | None = None) -> Segmentation:
        """Segment one scan: a NIfTI file, nibabel image or array (x, y, z; 1 mm), or a list of them, one per channel.

        brain_mask: its brain mask, a file or an image; all else is set to 0. A model trained with such masks needs it.
        Raises InputError for a scan that cannot be read or has another number of channels than the model.
        """
        return self.finish(self.infer(self.load(scan, brain_mask)))

    def load(self, scan: Source | Sequence[Source], brain_mask: Source | None = None) -> LoadedScan:
        """The host's first part: read, turn, clean, find the non-zero box and the intensity scaling, store the box."""
        start = time.perf_counter()
        several = isinstance(scan, Iterable) and not isinstance(scan, Source) and not is_array(scan)
        channels: list[Any] = list(scan) if several else [scan]  # type: ignore[arg-type]
        files = ", ".join(str(c) for c in channels if isinstance(c, str | os.PathLike)) or None
        names = self.recipe.channel_names
        if len(channels) != len(names):
            raise InputError(
                "The scan has another number of channels than the model.",
                file=files,
                expected=f"{len(names)}: {', '.join(names)}",
                found=len(channels),
                hint="give one file for each channel, in this order",
            )
        images = [read_scan(c) for c in channels]
        volume, spacing, grid = to_volume(images, self.recipe.orientation)
        odd = [problem for image in images for problem in voxel_warnings(image, image.get_filename())]
        odd += channel_problems(images)
        read = time.perf_counter()
        steps = self.recipe.optional_steps
        brain = None
        if brain_mask is not None:
            brain, odd_brain = read_brain(brain_mask, images[0], grid)
            odd += odd_brain
            steps = tuple(step for step in STEPS if step in steps or step == "brain")
        for warning in odd:
            _LOG.warning("%s", warning)
        try:
            loaded = self._place(clean(volume, spacing, steps, brain), spacing, files)
        except InputError as error:
            raise InputError.of(dataclasses.replace(p, file=p.file or files) for p in error.problems) from None
        seconds = {"read": read - start, "prepare": time.perf_counter() - read}
        name = channels[0] if isinstance(channels[0], str | os.PathLike) else images[0].get_filename()
        contrast = scan_contrast(name) if len(images) == 1 and name is not None else None
        return dataclasses.replace(loaded, grid=grid, contrast=contrast, seconds=seconds)

    def infer(self, loaded: LoadedScan, tiles: Callable[[int, int], None] | None = None) -> Segmentation:
        """The device's part: evidence, and what it decides; it has computed when this returns.

        tiles: is called with (done, all) after each round of tiles.
        """
        start = time.perf_counter()
        decided = jax.block_until_ready(self.decide(loaded, self.evidence(loaded, tiles)))
        assert loaded.grid is not None  # `load` read it from a file
        seconds = {**loaded.seconds, "device": time.perf_counter() - start}
        about = loaded.origin, loaded.properties, loaded.foreground, loaded.grid, seconds, loaded.brain_extracted
        return Segmentation(decided, *about, self.threshold_of(loaded))

    def finish(self, segmentation: Segmentation) -> Segmentation:
        """The host's last part: from the device, and from the box to the scan's grid, as images."""
        start = time.perf_counter()
        _ = segmentation.mask
        segmentation.seconds["finish"] = time.perf_counter() - start
        return segmentation

    def evidence(self, loaded: LoadedScan, tiles: Callable[[int, int], None] | None = None) -> jax.Array:
        """`compute_evidence` with as many tiles at once as the device's memory turns out to hold."""
        while True:
            try:
                return jax.block_until_ready(compute_evidence(loaded, self._networks, self.window, tiles))
            except jax.errors.JaxRuntimeError as error:
                if self.window.tile_batch == 1 or not is_out_of_memory(error):
                    raise
            fewer = self.window.tile_batch // 2
            _LOG.warning("out of memory with %d tiles at once: going on with %d", self.window.tile_batch, fewer)
            self.window = dataclasses.replace(self.window, tile_batch=fewer)

    def decide(self, loaded: LoadedScan, evidence: jax.Array) -> Slabs:
        """`decide_box` with the scan's threshold."""
        return decide_box(loaded, evidence, self.window, self.threshold_of(loaded))

    def threshold_of(self, loaded: LoadedScan) -> float | None:
        """The threshold that decides of this scan; None is its most probable class."""
        row = row_for(self.thresholds, loaded.contrast, max(loaded.properties.spacing))
        return self.threshold if row is None else float(row["threshold"])

    def _place(self, volume: np.ndarray, spacing: Sequence[float], files: str | None) -> LoadedScan:
        """Crop, find the intensity scaling, and store the box; warns of a scan that is unlike the training scans."""
        recipe = self.recipe
        region = find_region(volume, crop=recipe.crop_to_nonzero, fill=recipe.needs_filled_mask)
        if (warning := unlike_training(recipe, region, files)) is not None:
            _LOG.warning("%s", warning)
        boxed = volume[region.box]
        scaling = find_scaling(
            boxed, recipe.normalisation, region.mask, recipe.use_mask_for_norm, recipe.intensity_properties
        )
        properties = place_scan(volume.shape[:3], region.box, spacing, recipe.spacing)
        return load_box(
            boxed,
            region,
            scaling,
            properties,
            self.window,
            background=self.background,
            skip_background=self.skip_background,
        )


def unlike_training(recipe: Preprocessing, region: Region, file: str | None) -> Problem | None:
    """The warning that a scan's brain was extracted and the training scans' was not, or the other way round."""
    if skull_flag(recipe, region.brain_extracted) is None:
        return None
    expected = not region.brain_extracted
    words = {True: "zeros around an extracted brain", False: "a whole head"}
    masks = "give the brain's mask: --brain-masks MASKS, or have it made: --brain-extraction TOOL"
    hint = masks if expected else "give the whole head"
    what = "The scan does not look like those that the model was trained on; its result may be meaningless."
    return Problem(what, file, words[expected], words[region.brain_extracted], hint, "W")


@functools.cache
def network_of(config: MedNeXtConfig):
    """One function for each architecture, so that models of one ensemble share a compiled program."""
    kinds = [kind for kind, _, _ in config.blocks()]
    ops = best_ops(dtype=config.dtype, norm=config.norm, grn=config.grn, kinds=kinds, gradients=False)
    net = MedNeXt(config, ops)

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


def _is_real(value: object) -> bool:
    return isinstance(value, Real)  # of NumPy, too; a function, since mypy takes no float for a Real


def _require_one_recipe(models: Sequence[Model]) -> None:
    first = models[0]
    for model in models[1:]:
        for name in (field.name for field in dataclasses.fields(Recipe) if field.name not in FREE_FIELDS):
            one, other = getattr(first.recipe, name), getattr(model.recipe, name)
            if one != other:
                raise InputError(
                    f"The models of an ensemble have different recipes: {name}.",
                    file=model.path,
                    expected=f"{one} as in {first.path}",
                    found=other,
                    hint="average only models that were trained with one preparation",
                )
