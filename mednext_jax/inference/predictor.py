"""One scan in, mask and probability on the same grid out."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import time
from collections.abc import Sequence

import jax
import nibabel as nib
import numpy as np

from mednext_jax.errors import InputError
from mednext_jax.inference.sliding_window import Network, Window, foreground_probabilities, sliding_window
from mednext_jax.io.nifti import Grid, from_volume, image_like, read_scan, to_volume
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.model.directory import Model, load_models
from mednext_jax.model.mednext import MedNeXt
from mednext_jax.preprocess.pipeline import Preprocessed, preprocess_scan, restore

Scan = str | os.PathLike | nib.Nifti1Image
# Recipe fields that decide what the network sees and what its output means: one ensemble, one recipe.
SHARED_FIELDS = (
    *("channel_names", "labels", "patch_size", "spacing", "orientation", "crop_to_nonzero", "normalisation"),
    *("use_mask_for_norm", "intensity_properties", "mirror_axes", "average"),
)


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A scan that was read and preprocessed, and how to get back to its grid."""

    case: Preprocessed
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
    tile_batch: tiles computed at once; None chooses by device and patch.
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
    ):
        listed = [models] if isinstance(models, Model | str | os.PathLike) else list(models)
        self.models = [m for item in listed for m in ([item] if isinstance(item, Model) else load_models(item))]
        if not self.models:
            raise InputError("No model was named.", expected="at least one model directory")
        if not 0 < step <= 1:
            raise InputError("The tile step is not a part of the patch.", expected="above 0, at most 1", found=step)
        if threshold is not None and not 0 <= threshold < 1:
            raise InputError("The threshold is not a probability.", expected="from 0 to below 1", found=threshold)
        _require_one_recipe(self.models)
        self.recipe = self.models[0].recipe
        self.threshold = threshold
        if threshold is None and self.models[0].config.num_classes == 2:
            self.threshold = self.recipe.threshold
        self.window = Window(
            self.recipe.patch_size,
            step,
            tuple(self.recipe.mirror_axes) if tta else (),
            self.recipe.average,
            tile_batch or _default_tile_batch(self.recipe.patch_size),
        )
        self._networks = [Network(_apply(_for_device(m.config)), jax.device_put(m.params)) for m in self.models]

    def __call__(self, scan: Scan | Sequence[Scan]) -> Result:
        """Segment one scan: a NIfTI file or nibabel image, or a list of them, one a channel.

        Raises InputError for a scan that cannot be read or has another number of channels than the model.
        """
        return self.finish(self.infer(self.load(scan)))

    def load(self, scan: Scan | Sequence[Scan]) -> Loaded:
        """The host's first part: read, turn, crop, normalise, resample."""
        start = time.perf_counter()
        channels = [scan] if isinstance(scan, Scan) else list(scan)
        names = self.recipe.channel_names
        if len(channels) != len(names):
            raise InputError(
                "The scan has another number of channels than the model.",
                file=", ".join(str(c) for c in channels if not isinstance(c, nib.Nifti1Image)) or None,
                expected=f"{len(names)}: {', '.join(names)}",
                found=len(channels),
                mend="give one file for each channel, in this order",
            )
        images = [c if isinstance(c, nib.Nifti1Image) else read_scan(c) for c in channels]
        volume, spacing, grid = to_volume(images, self.recipe.orientation)
        if not np.isfinite(volume).all():
            raise InputError("The image has voxels that are not finite.", expected="finite intensities")
        read = time.perf_counter()
        case = preprocess_scan(
            volume,
            spacing,
            target_spacing=self.recipe.spacing,
            normalisation=self.recipe.normalisation,
            use_mask_for_norm=self.recipe.use_mask_for_norm,
            crop_to_nonzero=self.recipe.crop_to_nonzero,
            intensity_properties=self.recipe.intensity_properties,
        )
        return Loaded(case, grid, {"read": read - start, "preprocess": time.perf_counter() - read})

    def infer(self, loaded: Loaded) -> tuple[Loaded, np.ndarray]:
        """The device's part: evidence (d, h, w, num_classes - 1) on the preprocessed grid."""
        start = time.perf_counter()
        evidence = sliding_window(self.window, self._networks, loaded.case.volume)
        seconds = {**loaded.seconds, "network": time.perf_counter() - start}
        return dataclasses.replace(loaded, seconds=seconds), evidence

    def finish(self, inferred: tuple[Loaded, np.ndarray]) -> Result:
        """The host's last part: back to the scan's grid, threshold, images."""
        loaded, evidence = inferred
        start = time.perf_counter()
        outside = -np.inf if self.window.average == "logits" else 0.0  # probability 0
        whole = restore(evidence, loaded.case.properties, fill=outside)
        classes = np.asarray(foreground_probabilities(whole, self.window.average))
        mask, probability = decide(classes, self.threshold)
        images = [
            image_like(from_volume(array, loaded.grid), loaded.grid, dtype)
            for array, dtype in ((mask, np.uint8), (probability, np.float32))
        ]
        return Result(images[0], images[1], {**loaded.seconds, "restore": time.perf_counter() - start})


def decide(classes: np.ndarray, threshold: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Label (d, h, w) uint8 and foreground probability from the probabilities (d, h, w, n) of n foreground classes.

    threshold: a voxel is foreground, of its most probable class, if the foreground's probability is above; None is the
    argmax over background and classes (a tie is background).
    """
    probability = np.clip(classes.sum(-1), 0, 1)
    foreground = classes.max(-1) > 1 - probability if threshold is None else probability > threshold
    return np.where(foreground, classes.argmax(-1) + 1, 0).astype(np.uint8), probability


@functools.cache
def _apply(config: MedNeXtConfig):
    """One function for each architecture, so that models of one ensemble share a compiled program."""
    net = MedNeXt(config)

    def apply(params, x):
        return net.apply({"params": params}, x)

    return apply


def _for_device(config: MedNeXtConfig) -> MedNeXtConfig:
    """Float32 on a CPU, which gains nothing from bfloat16; nothing is differentiated, so nothing is recomputed."""
    dtype = "float32" if jax.default_backend() == "cpu" else config.dtype
    return dataclasses.replace(config, dtype=dtype, remat="none")


def _default_tile_batch(patch_size: Sequence[int]) -> int:
    """A CPU is busy with one tile; an accelerator gets about two patches of 128^3 voxels at once."""
    if jax.default_backend() == "cpu":
        return 1
    return max(1, min(32, 2 * 128**3 // math.prod(patch_size)))


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
                    mend="average only models that were trained with one preparation",
                )
