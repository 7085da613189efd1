"""All folds of a data set, one after another or each on its own machine, and their common table."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from ml_collections import ConfigDict

from mednext_jax.data.case_store import CaseStore
from mednext_jax.errors import InputError
from mednext_jax.evaluate.cross_validation import evaluate_cross_validation
from mednext_jax.io.atomic import atomic_directory
from mednext_jax.parallel.processes import is_main_process
from mednext_jax.train.configuration import TrainConfig
from mednext_jax.train.run import run


def cross_validate(config: ConfigDict | TrainConfig, workdir: str | Path) -> Path | None:
    """Train every fold in `workdir`/fold_0, fold_1, ... and collect them; the same call continues.

    A fold that has finished, here or on another machine that shares the folder, is not trained again. At the end
    writes `workdir`/model, the ensemble of all folds, and the table of `mednext-jax evaluate --cv`. Returns the
    ensemble's path, or None if a signal stopped a fold. Raises as `run`.
    """
    config = TrainConfig.of(config)
    workdir = Path(workdir)
    folds = range(len(CaseStore.open(config.data).splits))
    if (workdir / "config.json").exists():
        raise InputError(
            "The folder holds one training; all folds of a data set need one of their own.",
            file=workdir,
            hint="name the folder above it, or a new one",
        )
    if config.fold != TrainConfig.fold:
        raise InputError(
            "Cross-validation trains every fold; config.fold chooses one.",
            expected="--cv without config.fold",
            found=f"config.fold = {config.fold}",
            hint="leave --cv out to train one fold, and evaluate --cv for the table",
        )
    if not config.final_validation:
        raise InputError("Cross-validation needs config.final_validation.", expected=True, found=False)
    for fold in folds:
        if run(dataclasses.replace(config, fold=str(fold)), workdir / f"fold_{fold}") is None:
            return None
    ensemble = workdir / "model"
    if is_main_process():
        if not ensemble.exists():
            with atomic_directory(ensemble) as new:
                for fold in folds:
                    shutil.copytree(workdir / f"fold_{fold}" / "model", new / f"fold_{fold}")
        evaluate_cross_validation(workdir)
    return ensemble
