"""Whole validation scans with the sliding window, scored as `mednext-jax evaluate` does."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from mednext_jax.evaluate.case import WHOLE, Scores, evaluate_case
from mednext_jax.evaluate.cohort import by_region
from mednext_jax.evaluate.cross_validation import ScoredFold
from mednext_jax.evaluate.scores_file import CaseScores, write_scores
from mednext_jax.evaluate.table import terminal_table
from mednext_jax.inference.on_device import decide
from mednext_jax.inference.sliding_window import Network, Window, foreground_probabilities, sliding_window
from mednext_jax.io.atomic import atomic_directory
from mednext_jax.io.case_store import CaseStore
from mednext_jax.io.nifti import from_volume, grid_of, image_like, write_image
from mednext_jax.preprocess.pipeline import Properties, restore
from mednext_jax.train.picture import draw_case
from mednext_jax.weights.recipe import Recipe

PICTURES = 3  # validation cases that are drawn


def validate_scans(
    store: CaseStore,
    fold: ScoredFold,
    network: Network,
    recipe: Recipe,
    folder: Path | None = None,
    pictures: Path | None = None,
) -> dict[str, dict[str, Scores]]:
    """Segment a fold's cases with mirroring and overlapping tiles; case -> region -> scores on the prepared grid.

    With `folder`, writes CASE_mask.nii.gz on the grid of each scan, cases.csv and summary.json into it, whole or not
    at all. Against labels that were resampled the scores differ a little from those on the scan's own grid, which
    `mednext-jax evaluate` gives for the written masks. With `pictures`, draws the first cases into that folder.
    """
    window = Window(
        recipe.patch_size,
        mirror_axes=recipe.mirror_axes,
        average=recipe.average,
        regions=recipe.regions_class_order,
    )
    scores, masks = {}, {}
    names = {value: name for name, value in store.meta.regions.items()}
    for number, case in enumerate(fold.cases):
        image, label = store.read(case)
        shown = label * (label != store.meta.ignore_label)
        evidence = sliding_window(window, [network], image)
        found, _ = decide(foreground_probabilities(evidence, window.kind), recipe.read_out, window.regions)
        record = store.record(case)
        properties = Properties.from_dict(record["properties"])
        scores[case] = evaluate_case(
            np.asarray(found), label, properties.resampled_spacing, store.regions(case), names, store.meta.ignore_label
        )
        if pictures is not None and number < PICTURES:
            title = f"{case}, Dice {scores[case][WHOLE]['dice']:.3f}"
            draw_case(image, shown, np.asarray(found), title, pictures / f"{case}.png")
        if folder is not None:
            whole = restore(evidence, properties, fill=window.background)
            mask, _ = decide(foreground_probabilities(whole, window.kind), recipe.read_out, window.regions)
            masks[case] = _on_scan(np.asarray(mask), record)
    if folder is not None:
        with atomic_directory(folder) as new:
            for case, mask_image in masks.items():
                write_image(new / f"{case}_mask.nii.gz", mask_image)
            write_scores(new, scores, fold=dataclasses.asdict(fold))
    return scores


def score_table(cases: CaseScores) -> str:
    """Mean and standard deviation over cases, whole and by region, as a table for the terminal."""
    return terminal_table(by_region(list(cases.values())))


def _on_scan(mask: np.ndarray, record: Mapping[str, Any]) -> nib.Nifti1Image:
    """A mask (d, h, w) on the scan's RAS grid as an image on the grid of its file."""
    like = nib.Nifti1Image(np.zeros(record["stored_shape"], np.uint8), np.asarray(record["affine"], float))
    like.header.set_xyzt_units("mm")
    grid = grid_of(like)
    return image_like(from_volume(mask, grid), grid, np.uint8)
