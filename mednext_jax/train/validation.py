"""Whole validation scans with the sliding window, scored as `mednext-jax evaluate` does."""

from __future__ import annotations

import base64
import dataclasses
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import nibabel as nib
import numpy as np
from jax.experimental import multihost_utils

from mednext_jax.data.case_store import CaseStore
from mednext_jax.evaluate.case import WHOLE, Scores, evaluate_case
from mednext_jax.evaluate.cohort import by_region
from mednext_jax.evaluate.cross_validation import ScoredFold
from mednext_jax.evaluate.scores_file import CaseScores, write_scores
from mednext_jax.evaluate.table import terminal_table
from mednext_jax.inference.on_device import LoadedScan, load_prepared, on_scan, to_host
from mednext_jax.inference.predictor import Predictor
from mednext_jax.io.atomic import atomic_directory
from mednext_jax.io.nifti import from_volume, grid_of, image_like, write_image
from mednext_jax.parallel.processes import is_main_process, meet
from mednext_jax.preprocess.trip import Properties
from mednext_jax.train.picture import draw_case

PICTURES = 3  # validation cases that are drawn


def validate_scans(
    store: CaseStore,
    fold: ScoredFold,
    predictor: Predictor,
    folder: Path | None = None,
    pictures: Path | None = None,
) -> dict[str, dict[str, Scores]]:
    """Segment a fold's cases as `predict` does; case -> region -> scores on the prepared grid.

    Several processes share the cases, and each returns all scores. With `folder`, the first writes CASE_mask.nii.gz on
    the grid of each scan, cases.csv and summary.json into it, whole or not at all. Against labels that were resampled
    the scores differ a little from those on the scan's own grid, which `mednext-jax evaluate` gives for the written
    masks. With `pictures`, draws the first cases into that folder.
    """
    found = {}
    for number, case in enumerate(fold.cases):
        if number % jax.process_count() == jax.process_index():
            drawn = None if pictures is None or number >= PICTURES else pictures / f"{case}.png"
            found[case] = _validate(store, case, predictor, folder is not None, drawn)
    found = _from_all_processes(found)
    scores = {case: found[case]["scores"] for case in fold.cases}
    if folder is not None and is_main_process():
        with atomic_directory(folder) as new:
            for case in fold.cases:
                write_image(new / f"{case}_mask.nii.gz", _image(found[case]["mask"], store.record(case)))
            write_scores(new, scores, fold=dataclasses.asdict(fold))
    return scores


def _validate(
    store: CaseStore, case: str, predictor: Predictor, with_mask: bool, picture: Path | None
) -> dict[str, Any]:
    """The scores of one case by region, and its mask on the scan's RAS grid, as JSON values."""
    image, label = store.read(case)
    properties = Properties.from_dict(store.record(case)["properties"])
    loaded = load_prepared(image, label >= 0, properties, predictor.window, background=predictor.background)
    evidence = predictor.evidence(loaded)
    mask = _label(predictor, loaded, evidence)
    names = {value: name for name, value in store.meta.regions.items()}
    ignored = store.meta.ignore_label
    scores = evaluate_case(mask, label, store.voxel_volume(case), store.regions(case), names, ignored)
    if picture is not None:
        draw_case(image, label * (label != ignored), mask, f"{case}, Dice {scores[WHOLE]['dice']:.3f}", picture)
    if not with_mask:
        return {"scores": scores}
    whole = _label(predictor, on_scan(loaded, properties, predictor.window), evidence)
    return {"scores": scores, "mask": base64.b64encode(zlib.compress(whole.tobytes(), 1)).decode()}


def _label(predictor: Predictor, scan: LoadedScan, evidence: jax.Array) -> np.ndarray:
    decided = predictor.decide(scan, evidence)
    return to_host(decided, scan.origin, scan.properties, scan.foreground)[0]


def score_table(cases: CaseScores) -> str:
    """Mean and standard deviation over cases, whole and by region, as a table for the terminal."""
    return terminal_table(by_region(list(cases.values())))


def _image(mask: str, record: Mapping[str, Any]) -> nib.Nifti1Image:
    """The mask that `_validate` made, on the scan's RAS grid, as an image on the grid of its file."""
    shape = Properties.from_dict(record["properties"]).shape
    array = np.frombuffer(zlib.decompress(base64.b64decode(mask)), np.uint8).reshape(shape)
    like = nib.Nifti1Image(np.zeros(record["stored_shape"], np.uint8), np.asarray(record["affine"], float))
    like.header.set_xyzt_units("mm")
    grid = grid_of(like)
    return image_like(from_volume(array, grid), grid, np.uint8)


def _from_all_processes(mine: dict[str, Any]) -> dict[str, Any]:
    """The items of every process; all must call it."""
    if jax.process_count() == 1:
        return mine
    meet("validated")  # they come here at unequal times
    text = np.frombuffer(json.dumps(mine).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(len(text)))
    texts = multihost_utils.process_allgather(np.pad(text, (0, int(lengths.max()) - len(text))))
    parts = [json.loads(row[:length].tobytes()) for row, length in zip(texts, lengths, strict=True)]
    return {case: result for part in parts for case, result in part.items()}
