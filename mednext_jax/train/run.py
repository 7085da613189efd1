"""One run: resume, train, and leave a model directory."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mednext_jax.data.case_store import CaseStore
from mednext_jax.errors import InputError, shown
from mednext_jax.evaluate.case import WHOLE
from mednext_jax.evaluate.scores_file import read_scores, without_nan
from mednext_jax.io.atomic import atomic_file, refuse_existing
from mednext_jax.io.json_file import read_json
from mednext_jax.io.lock import locked
from mednext_jax.parallel.processes import (
    agree,
    checked_together,
    code_version,
    initialise,
    is_main_process,
    leaving_at_once,
)
from mednext_jax.simulate.anatomy import Anatomy
from mednext_jax.simulate.heads import anatomies_of
from mednext_jax.train.card import model_card
from mednext_jax.train.checkpoint import Checkpoints
from mednext_jax.train.configuration import TrainConfig
from mednext_jax.train.experiment import Experiment, data_set_hash, to_host
from mednext_jax.train.generated import FOLDER, simulated_scans
from mednext_jax.train.label_ranges import label_ranges
from mednext_jax.train.loop import pictures_of, run_steps
from mednext_jax.train.state import TrainState
from mednext_jax.train.validation import score_table
from mednext_jax.version import __version__
from mednext_jax.weights.directory import DESCRIPTION, save_model

# A resumed run may change these; anything else would make it another run.
FREE_ON_RESUME = (
    *("data", "steps", "validation_steps", "scan_validation_epochs", "final_validation"),
    *("threads", "mesh", "checkpoint", "profile"),
)
LOCK = ".lock"  # held in the work folder while a run works there


def run(config: ConfigDict | TrainConfig, workdir: Path) -> Path | None:
    """Train one fold as `config` says, in `workdir`, or continue there: `train.train` without `cv`."""
    initialise()
    model = workdir / "model"
    finished = model.exists()
    with contextlib.ExitStack() as held:
        with checked_together():
            checked = TrainConfig.of(config)
            if finished:
                _check_finished(checked, model, workdir)
            else:
                if not (workdir / "config.json").is_file():
                    refuse_existing(workdir, hidden=False)  # those of a run that was killed at its start
                    _refuse_needless(checked)
                    _refuse_name(workdir)
        if finished:
            print(f"This run has finished: {shown(model)}")
            return model
        experiment = _experiment(checked, workdir)
        agree("configuration", _identity(experiment))
        agree("code version", code_version())
        agree("choice of GPU kernels", experiment.operations)
        with checked_together():
            if is_main_process():
                workdir.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(workdir / LOCK, "Another training runs in this folder."))
        with leaving_at_once():
            return _run(experiment, workdir, model)


def _experiment(config: TrainConfig, workdir: Path) -> Experiment:
    """The experiment of a run; the anatomies of its generator are read once and stay on the devices alone."""
    anatomies = None
    if config.generator.enabled:
        with checked_together():
            anatomies = anatomies_of(config.generator)
            if is_main_process():
                _simulate_once(config, anatomies, workdir)
    with checked_together():
        return Experiment.of(config, _data_of(config, workdir), anatomies)


def _simulate_once(config: TrainConfig, anatomies: Sequence[Anatomy], workdir: Path) -> None:
    """Make the simulated scans of a run if they are not there. Raises InputError for those of another generator.

    The configuration is written first: with it the folder is a run's, and a start that was killed can be repeated.
    """
    written = workdir / "config.json"
    if not (workdir / FOLDER).is_dir():
        workdir.mkdir(parents=True, exist_ok=True)
        _write_config(config, workdir)
    saved = read_json(written)
    if not isinstance(saved, dict) or saved.get("generator") != config.plain()["generator"]:
        raise InputError(
            "The simulated scans of this run were made with another configuration of the generator.",
            file=workdir / FOLDER,
            expected=f"config.generator as in {shown(written)}",
            hint="use the run's own configuration, or another --workdir",
        )
    simulated_scans(config, anatomies, workdir)


def _data_of(config: TrainConfig, workdir: Path) -> str | Path:
    """The prepared data set of a run: its configuration's, or its own simulated scans."""
    return workdir / FOLDER if config.generator.enabled else config.data


def _refuse_needless(config: TrainConfig) -> None:
    """Raise InputError for a field that the rest of the configuration would leave without effect."""
    if config.upkern and not config.init_from:
        raise InputError(
            "config.upkern enlarges the kernels of config.init_from, which is not set.",
            expected="config.init_from, a model directory",
            found="config.upkern = True alone",
        )


def _refuse_name(workdir: Path) -> None:
    """Raise InputError for a folder that TensorStore cannot write checkpoints to, before the first is due."""
    try:
        str(workdir.absolute()).encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(
            "The name of the work folder is not UTF-8, which checkpoints need.",
            file=workdir,
            hint="rename it, or set another locale: LC_ALL=C.UTF-8",
        ) from None


def _check_finished(config: TrainConfig, model: Path, workdir: Path) -> None:
    """Raise InputError unless the model is of a run with this configuration and data set."""
    description = read_json(model / DESCRIPTION)
    provenance = description.get("provenance") if isinstance(description, dict) else None
    saved = provenance.get("config") if isinstance(provenance, dict) else None
    data_set = provenance.get("data_set") if isinstance(provenance, dict) else None
    if not isinstance(saved, dict) or not isinstance(data_set, dict):
        raise InputError(
            "The model in this folder is not of a training run.",
            file=model,
            hint="name another --workdir, or move the model away",
        )
    _check_same_run(
        {**saved, "data_set": data_set.get("sha256")},
        config,
        CaseStore.open(_data_of(config, workdir)),
        free=[name for name in FREE_ON_RESUME if name != "steps"],
        hint="use the run's own configuration, or another --workdir; to train on, remove its model and validation "
        "folders",
    )


def _run(experiment: Experiment, workdir: Path, model: Path) -> Path | None:
    config = experiment.config
    if is_main_process() and not (workdir / "config.json").is_file():  # from now on the folder is a run's
        _write_config(config, workdir)
    with contextlib.closing(Checkpoints(workdir / "checkpoints", config.checkpoint.keep)) as checkpoints:
        state = _first_or_latest(experiment, checkpoints)
        if int(state.step) < config.steps:
            _refuse_earlier_scores(workdir / "validation")
        if is_main_process():
            _write_config(config, workdir)
        state = run_steps(experiment, state, checkpoints, _identity(experiment), workdir)
    done = int(state.step)
    if done < config.steps:
        saved = f"Stopped after step {done} of {config.steps} and saved in {workdir / 'checkpoints'}"
        if is_main_process():
            print(shown(f"{saved}; the same command continues."))
        return None
    params = to_host(state.result)
    validation = workdir / "validation"
    if config.final_validation and not validation.exists():  # written whole by a run that was stopped after it
        experiment.validate_scans(params, validation, pictures_of(workdir, done))
    if is_main_process():
        _finish(experiment, state, params, validation, model)
    while not model.exists():  # the other processes end with the run; should the first fail, JAX ends them
        time.sleep(1)
    return model


def _refuse_earlier_scores(validation: Path) -> None:
    """Raise InputError for scores of whole scans where a run is not at its end: they are of an earlier one."""
    if validation.exists():
        raise InputError(
            "The validation in this folder is of an earlier end of the run.",
            file=validation,
            hint="to train on, remove this folder",
        )


def _write_config(config: TrainConfig, workdir: Path) -> None:
    with atomic_file(workdir / "config.json") as path:
        path.write_text(json.dumps(config.plain(), indent=2) + "\n")


def _finish(experiment: Experiment, state: TrainState, params: Any, validation: Path, model: Path) -> None:
    """Print the scores of whole validation scans, if asked for, and write the model directory."""
    store = experiment.store
    by_case = None
    if experiment.config.final_validation:
        scores = read_scores(validation)["cases"]
        print(f"{len(scores)} validation scans on the prepared grid\n{score_table(scores)}")
        by_case = {case: regions[WHOLE] for case, regions in scores.items()}
    provenance = {
        "trained_by": f"mednext-jax {__version__}",
        "data_set": {"name": store.meta.name, "sha256": experiment.data_set},
        "steps": int(state.step),
        "skipped_steps": int(state.skipped),
        "training_range": label_ranges(store, experiment.described_cases),
        "validation_dice": None
        if by_case is None
        else without_nan({case: row["dice"] for case, row in by_case.items()}),
        "config": experiment.config.plain(),
    }
    architecture, params = experiment.result(params)
    card = model_card(
        architecture,
        experiment.recipe,
        store.meta,
        training_cases=experiment.described_cases,
        steps=int(state.step),
        scores=by_case,
    )
    save_model(model, architecture, params, experiment.recipe, provenance)
    with atomic_file(model / "README.md") as path:
        path.write_text(card, encoding="utf-8")


def _first_or_latest(experiment: Experiment, checkpoints: Checkpoints) -> TrainState:
    """1. the newest sound checkpoint; 2. the weights of `init_from`; 3. fresh weights."""
    state = checkpoints.restore_newest(
        experiment.state_like, lambda saved: _check_same_run(saved, experiment.config, experiment.store)
    )
    return experiment.first_state() if state is None else state


def _check_same_run(
    saved: Mapping[str, Any],
    config: TrainConfig,
    store: CaseStore,
    free: Collection[str] = FREE_ON_RESUME,
    hint: str = "use the run's own configuration, or another --workdir",
) -> None:
    """Raise InputError unless the run that says `saved` of itself (see `_identity`) has this configuration and data.

    `free`: the fields that may differ.
    """
    if saved.get("data_set") != data_set_hash(store):
        raise InputError(
            "The data set is not the one that this run started with.",
            file=store.path,
            hint="prepare it as it was, or start a new run in another --workdir",
        )
    asked = config.plain()
    # A run of an earlier release gets the fields that came later.
    said = TrainConfig.of({name: value for name, value in saved.items() if name != "data_set"}).plain()
    changed = [name for name in asked if said[name] != asked[name] and name not in free]
    if changed:
        name = changed[0]
        raise InputError(
            f"The run in this folder has another config.{', config.'.join(changed)}.",
            expected=f"{name} = {said[name]}"[:500],
            found=f"{name} = {asked[name]}"[:500],
            hint=hint,
        )


def _identity(experiment: Experiment) -> dict[str, Any]:
    """What a checkpoint says about its run."""
    return {**experiment.config.plain(), "data_set": experiment.data_set}
