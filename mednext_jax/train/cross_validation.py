"""All folds of a data set, one after another or each on its own machine, and their common table."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

from ml_collections import ConfigDict

from mednext_jax.errors import InputError
from mednext_jax.io.atomic import atomic_directory
from mednext_jax.io.case_store import CaseStore
from mednext_jax.train.config import check_config
from mednext_jax.train.loop import run
from mednext_jax.train.validation import read_scores, score_table, write_scores


def cross_validate(config: ConfigDict, workdir: str | Path) -> Path | None:
    """Train every fold in `workdir`/fold_0, fold_1, ... and collect them; the same call continues.

    A fold that has finished, here or on another machine that shares the folder, is not trained again. At the end
    writes `workdir`/cross_validation (scores of every case by the model that did not see it, their masks) and
    `workdir`/model, the ensemble of all folds. Returns the ensemble's path, or None if a signal stopped a fold.
    Raises as `run`.
    """
    check_config(config)
    workdir = Path(workdir)
    folds = range(len(CaseStore.open(config.data).splits))
    if not config.final_validation:
        raise InputError("Cross-validation needs config.final_validation.", expected=True, found=False)
    for fold in folds:
        each = copy.deepcopy(config)
        each.fold = str(fold)
        if run(each, workdir / f"fold_{fold}") is None:
            return None
    return collect([workdir / f"fold_{fold}" for fold in folds], workdir)


def collect(runs: list[Path], workdir: Path) -> Path:
    """Write the common table and the ensemble of finished runs; what is there already is left."""
    unfinished = [path for path in runs if not (path / "model").is_dir() or not (path / "validation").is_dir()]
    if unfinished:
        raise InputError(
            "Not every fold has finished.",
            expected="a model and a validation folder in each",
            found=", ".join(map(str, unfinished)),
            mend="train these folds first",
        )
    scores = {case: row for path in runs for case, row in read_scores(path / "validation").items()}
    table = workdir / "cross_validation"
    if not table.exists():
        with atomic_directory(table) as new:
            for path in runs:
                for mask in (path / "validation").glob("*.nii.gz"):
                    shutil.copy(mask, new / mask.name)
            write_scores(new, scores)
    print(f"{len(scores)} scans, each by the fold that did not see it, on the prepared grid\n{score_table(scores)}")
    ensemble = workdir / "model"
    if not ensemble.exists():
        with atomic_directory(ensemble) as new:
            for path in runs:
                shutil.copytree(path / "model", new / path.name)
    return ensemble
