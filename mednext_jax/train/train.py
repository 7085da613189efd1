"""The command `train`: one run, or every fold of a cross-validation."""

from __future__ import annotations

import copy
from pathlib import Path

from ml_collections import ConfigDict

from mednext_jax.train.configuration import TrainConfig, changeable
from mednext_jax.train.folds import cross_validate
from mednext_jax.train.recipes import Overrides, change, load_config
from mednext_jax.train.run import run


def train(
    config: str | Path | ConfigDict | TrainConfig,
    workdir: str | Path,
    *,
    overrides: Overrides = (),
    cv: bool = False,
) -> Path | None:
    """Train as `config` says, in `workdir`; the same call continues a run that was interrupted.

    `config`: a recipe's name ("mednet_pvs_t2w", "mednext:S/3"), a file's path, or a configuration. `overrides`: fields
    to change, {"data": "prepared", "optimiser.learning_rate": 1e-3} or as on the command line. `cv`: train or continue
    every fold, then the table and the ensemble (`folds.cross_validate`).

    Writes config.json, checkpoints/, steps.csv, metrics.csv, progress.png and pictures/ of validation scans (with
    matplotlib), events/ (with tensorboardX), at the end validation/ (masks and scores of the fold's validation scans)
    and model/, the model directory. Returns its path, or None if a signal (SIGTERM, Ctrl-C) stopped the run, after
    saving a checkpoint. Several processes (see `parallel.processes.initialise`) make one run; the first writes.
    Raises InputError for a bad configuration, data set or work folder; WorkError when loss or gradient is not finite
    three times in a row.
    """
    if isinstance(config, str | Path):
        config = load_config(config, overrides)
    elif overrides:
        config = changeable(config) if isinstance(config, TrainConfig) else copy.deepcopy(config)
        change(config, overrides)
    return cross_validate(config, workdir) if cv else run(config, Path(workdir))
