"""What about a scan, or about its result, asks for a look: words in the column `flags` of volumes.tsv.

Of one scan:
    voxel size        more than 1.5 times the size that the model computes in, or as much below it; larger than any that
                      its table of thresholds knows
    contrast          the file's name or header tells another contrast than the model's channel, or one that its table
                      of thresholds does not know
    skull, no skull   a whole head for a model of extracted brains, or the other way round
    edge              more than a fifth of the clusters lie within two voxels of an extracted brain's edge
    count unlike training, volume unlike training
                      less than half of the least, or more than twice the most, that a training scan's label holds
Of a cohort, where at least `COHORT` scans are done:
    few PVS, many PVS, small volume, large volume
                      outside of median +- 5 robust standard deviations (1.4826 MAD) of log(1 + value)
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mednext_jax.errors import Problem
from mednext_jax.inference.unlike_model import contradiction, is_foreign
from mednext_jax.io.contrast import contrast_in, scan_contrast
from mednext_jax.io.geometry import is_far
from mednext_jax.preprocess.preprocessing import Preprocessing
from mednext_jax.weights.recipe import Recipe
from mednext_jax.weights.threshold_table import is_coarser, row_for

EDGE_SHARE, EDGE_VOXELS, EDGE_CLUSTERS = 0.2, 2, 5
FAR_FROM_TRAINING = 2.0
COHORT, DEVIATIONS = 10, 5.0
SEPARATOR = "; "
VOXEL_SIZE, CONTRAST, EDGE = "voxel size", "contrast", "edge"
_COHORT_FLAGS = {"count": ("few PVS", "many PVS"), "volume_mm3": ("small volume", "large volume")}


def scan_flags(recipe: Recipe, files: Sequence[Path], spacing: Sequence[float], brain_extracted: bool) -> list[str]:
    """The flags of a scan that was read, by its `files` (one a channel) and its voxels of `spacing` (d, h, w) mm."""
    contrast = scan_contrast(files[0]) if recipe.thresholds and len(files) == 1 else None
    row = row_for(recipe.thresholds, contrast, max(spacing))
    too_coarse = row is not None and is_coarser(row, max(spacing))
    found = [VOXEL_SIZE] if too_coarse or is_far(spacing, recipe.spacing) else []
    if is_foreign(contrast, recipe) or any(
        contradiction(file, contrast_in(channel)) for file, channel in zip(files, recipe.channel_names, strict=True)
    ):
        found.append(CONTRAST)
    skull = skull_flag(recipe, brain_extracted)
    return [*found, *([] if skull is None else [skull])]


def expects_extracted(recipe: Preprocessing) -> bool | None:
    """Whether a model was trained on extracted brains; None if nothing is known.

    A recipe that does not say so, but normalises inside the non-zero mask, is taken to be of extracted brains.
    """
    expected = recipe.brain_extracted
    return True if expected is None and recipe.needs_filled_mask else expected


def skull_flag(recipe: Preprocessing, brain_extracted: bool) -> str | None:
    """`skull` or `no skull` if the scan is unlike those that the model was trained on."""
    expected = expects_extracted(recipe)
    if expected is None or expected == brain_extracted:
        return None
    return "skull" if expected else "no skull"


def edge_flag(labels: np.ndarray, inside: np.ndarray) -> str | None:
    """`edge` if many of the clusters `labels` (x, y, z; 1, 2, ...) lie near the rim of `inside`, boolean (x, y, z)."""
    where = np.argwhere(labels)
    count = int(labels.max(initial=0))
    if count < EDGE_CLUSTERS:
        return None
    near = range(-EDGE_VOXELS, EDGE_VOXELS + 1)
    touching = np.zeros(len(where), bool)
    for shift in itertools.product(near, near, near):
        there = where + shift
        within = np.all((there >= 0) & (there < inside.shape), axis=1)
        touching |= within & ~inside[tuple(np.where(within[:, np.newaxis], there, 0).T)]
    share = len(np.unique(labels[tuple(where[touching].T)])) / count
    return EDGE if share > EDGE_SHARE else None


def training_flags(row: Mapping[str, Any], ranges: Sequence[Mapping[str, Any]]) -> list[str]:
    """The flags of a row of volumes.tsv whose values no training scan was near; `ranges`: column -> (least, most)."""
    found = []
    for column, name in (("count", "count"), ("volume_mm3", "volume")):
        limits = [limit for one in ranges if (limit := _range(one.get(column))) is not None]
        if limits:
            low, high = min(limits)[0], max(high for _, high in limits)
            if not low / FAR_FROM_TRAINING <= row[column] <= high * FAR_FROM_TRAINING:
                found.append(f"{name} unlike training")
    return found


def _range(value: Any) -> tuple[float, float] | None:
    """The least and the most that a model's file tells; None for anything else that stands there."""
    told = isinstance(value, list) and len(value) == 2 and all(type(v) in (int, float) and v >= 0 for v in value)
    return (value[0], value[1]) if told else None


def with_cohort_flags(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of volumes.tsv with the flags of each scan among the others; former such flags are dropped."""
    dropped = {name for pair in _COHORT_FLAGS.values() for name in pair}
    found = [[flag for flag in row["flags"].split(SEPARATOR) if flag and flag not in dropped] for row in rows]
    if len(rows) >= COHORT:
        for column, names in _COHORT_FLAGS.items():
            values = np.log1p([float(row[column]) for row in rows])
            middle = np.median(values)
            spread = 1.4826 * np.median(np.abs(values - middle))
            for flags, value in zip(found, values, strict=True):
                if spread > 0 and abs(value - middle) > DEVIATIONS * spread:
                    flags.append(names[int(value > middle)])
    return [{**row, "flags": SEPARATOR.join(flags)} for row, flags in zip(rows, found, strict=True)]


def flagged(rows: Sequence[Mapping[str, Any]]) -> list[Problem]:
    """A warning for each scan with flags."""
    hint = "look at these scans and their masks before they are used; docs/cohorts.md says what the words mean"
    what = "Some scans ask for a look."
    return [Problem(what, row["scan"], found=row["flags"], hint=hint, severity="W") for row in rows if row["flags"]]
