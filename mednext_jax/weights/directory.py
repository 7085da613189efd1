"""A model directory: model.safetensors (MIC-DKFZ names, PyTorch layouts) and model.json, which explains it.

    model.safetensors   loads with `torch_model.load_state_dict(safetensors.torch.load_file(...))`, strictly
    model.json          format, format_version, architecture, recipe, provenance, weights (file, bytes, sha256)

An ensemble is a folder of model directories (fold_0, fold_1, ...). No pickle is written or read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tarfile
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from mednext_jax.errors import InputError, Problem, WorkError
from mednext_jax.io.absent import is_dangling, is_named, refuse_absent, refuse_no_folder
from mednext_jax.io.atomic import atomic_directory, atomic_file
from mednext_jax.io.json_file import read_json
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.weights.names import DUMMY, Params, expected_shapes, from_torch_names, to_torch_names
from mednext_jax.weights.recipe import Recipe
from mednext_jax.weights.safetensors_file import read_tensors

FORMAT, FORMAT_VERSION = "mednext-jax-model", 1
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
_PARTS = ("format", "format_version", "architecture", "recipe", "provenance", "weights")
_NOTICE = 500  # characters
_STORED = ("float32", "float16")  # types of the weights in a file; a network's are float32
_RECONVERT = "write the model again with this version of mednext-jax"


@dataclasses.dataclass(frozen=True)
class Model:
    """A network, its parameters, and everything that predicting with it needs."""

    config: MedNeXtConfig
    params: Params  # nested dict of float32 arrays
    recipe: Recipe
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    path: Path | None = None  # where it was loaded from


def save_model(
    path: str | os.PathLike,
    config: MedNeXtConfig,
    params: Mapping[str, Any],
    recipe: Recipe,
    provenance: Mapping[str, Any] | None = None,
    *,
    half: bool = False,
) -> Path:
    """Write a model directory at `path`, whole or not at all.

    `provenance`: JSON values that say where the weights come from. half: in float16, rounded to 3 digits, which are
    loaded as float32.
    Raises InputError if `path` exists, the parts do not fit one another, or weights are not finite (as float16), and
    WorkError if the disk is full.
    """
    recipe.check_fits(config)
    state = to_torch_names(config, params)
    if half:
        state = {name: _halved(name, x) for name, x in state.items()}
    with atomic_directory(path) as folder:
        weights = folder / WEIGHTS
        try:
            safetensors.numpy.save_file(state, weights, metadata={"format": "pt"})
        except SafetensorError as error:  # how the package reports what the system says of a full disk
            raise WorkError(f"The weights could not be written to {path}: {error}") from None
        description = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "architecture": config.to_dict(),
            "recipe": recipe.to_dict(),
            "provenance": dict(provenance or {}),
            "weights": {"file": WEIGHTS, "bytes": weights.stat().st_size, "sha256": sha256(weights)},
        }
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=2, allow_nan=False) + "\n")
        weights.chmod((folder / DESCRIPTION).stat().st_mode)  # the package's own files are for their owner alone
    return Path(path)


def load_model(path: str | os.PathLike) -> Model:
    """The model in a model directory.

    `path`: the directory, or a training's workdir, which stands for its model. Nothing in the files is trusted: sizes
    are compared with the architecture before memory is taken, and the weights with their sha256.
    Raises InputError that names the part that is missing, unknown or damaged, or the weights that are not finite.
    """
    path = of_workdir(Path(path))
    if not (path / DESCRIPTION).is_file():
        members = _members(path)
        if members:
            raise InputError(
                "This folder is an ensemble, not one model.",
                file=path,
                found=f"{len(members)} model directories: {', '.join(m.name for m in members[:8])}",
                hint="name one of them, or load all with load_models",
            )
        raise _no_model(path)
    description = _read_description(path / DESCRIPTION)
    config = _section(path, "architecture", MedNeXtConfig.from_dict, description["architecture"])
    recipe = _section(path, "recipe", Recipe.from_dict, description["recipe"])
    recipe.check_fits(config, file=path / DESCRIPTION)
    params = _read_weights(path / WEIGHTS, description["weights"], config)
    return Model(config, params, recipe, description["provenance"], path)


def load_models(path: str | os.PathLike) -> list[Model]:
    """One model of a model directory, or all of an ensemble folder in the order of their names.

    Raises InputError as `load_model`, or if a fold of the ensemble is not whole.
    """
    path = of_workdir(Path(path))
    if (path / DESCRIPTION).is_file() or not (members := _members(path)):
        return [load_model(path)]
    refuse_incomplete(path, members)
    return [load_model(member) for member in members]


def read_recipes(path: str | os.PathLike) -> dict[Path, Recipe]:
    """model.json -> recipe, of a model directory, of a workdir's model, or of each member of an ensemble.

    No weights are read. Raises InputError as `load_model` does for the description.
    """
    path = of_workdir(Path(path))
    members = [path] if (path / DESCRIPTION).is_file() else _members(path)
    if not members:
        raise _no_model(path)
    if path not in members:
        refuse_incomplete(path, members)
    return {
        member / DESCRIPTION: _section(
            member, "recipe", Recipe.from_dict, _read_description(member / DESCRIPTION)["recipe"]
        )
        for member in members
    }


def read_thresholds(path: str | os.PathLike) -> dict[Path, Recipe]:
    """`read_recipes` of models that decide by a threshold; raises InputError for others, too."""
    recipes = read_recipes(path)
    for file, recipe in recipes.items():
        if recipe.decision_threshold is None:
            raise InputError(
                "The model decides by its most probable class, not by a threshold.",
                file=file,
                expected="a background and one other label",
                found=", ".join(recipe.labels),
            )
    return recipes


def set_threshold(path: str | os.PathLike, threshold: float, about: Mapping[str, Any]) -> list[Path]:
    """Let a model, or each model of an ensemble, decide by another threshold; returns the model.json written.

    Each file is replaced in one step. A table of thresholds by contrast and voxel size gives way, so that the threshold
    holds for every scan. `about` (JSON values), the former threshold and the table stand in the provenance, as
    "threshold". Raises InputError for what `read_thresholds` refuses, or a threshold that is none.
    """
    recipes = read_thresholds(path)
    for file, recipe in recipes.items():
        before: dict[str, Any] = {"before": recipe.threshold}
        if recipe.thresholds:
            before["thresholds_before"] = [dict(row) for row in recipe.thresholds]
        after = dataclasses.replace(recipe, threshold=threshold, thresholds=())
        _rewrite(file, after, {"threshold": before | dict(about)})
    return list(recipes)


def set_calibration(path: str | os.PathLike, recipe: Recipe, about: Mapping[str, Any]) -> list[Path]:
    """Give a model, or each model of an ensemble, the temperature and the thresholds of `recipe`; returns the files.

    Each model.json is replaced in one step; `about` (JSON values) stands in the provenance, as "calibration". Raises
    InputError for what `read_thresholds` refuses.
    """
    named = {name: getattr(recipe, name) for name in ("temperature", "thresholds", "threshold")}
    recipes = read_thresholds(path)
    for file, before in recipes.items():
        _rewrite(file, dataclasses.replace(before, **named), {"calibration": dict(about)})
    return list(recipes)


def _rewrite(file: Path, recipe: Recipe, provenance: Mapping[str, Any]) -> None:
    """Replace the recipe of a model.json, and add to its provenance."""
    description = _read_description(file)
    description["recipe"] = recipe.to_dict()
    description["provenance"] |= provenance
    with atomic_file(file) as temporary:
        temporary.write_text(json.dumps(description, indent=2, allow_nan=False) + "\n")


def _halved(name: str, x: np.ndarray) -> np.ndarray:
    if np.abs(x).max(initial=0) > np.finfo(np.float16).max:
        raise InputError(
            "A weight is too large for float16.",
            expected=f"at most {np.finfo(np.float16).max:g}",
            found=f"{name}: {np.abs(x).max():g}",
            hint="write the model in float32",
        )
    return x.astype(np.float16)


def sha256(path: str | os.PathLike) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def notice_of(provenance: Mapping[str, Any]) -> str | None:
    """What a model wants everyone to be told who uses it: the line "notice" of its provenance, if it has one."""
    notice = provenance.get("notice")
    return " ".join(notice.split())[:_NOTICE] if isinstance(notice, str) and notice.strip() else None


def of_workdir(path: Path) -> Path:
    """The model, or the ensemble of all folds, of a training's workdir; of a model's file, its directory.

    Any other path as it is.
    """
    if path.name in (DESCRIPTION, WEIGHTS) and (path.parent / DESCRIPTION).is_file():
        return path.parent
    inside = path / "model"
    holds = (inside / DESCRIPTION).is_file() or bool(_members(inside))
    return inside if holds and not (path / DESCRIPTION).is_file() else path


def _members(path: Path) -> list[Path]:
    """The models of an ensemble; one whose content is not there too, so that it is missed."""
    folds = sorted(path.glob("fold_*")) if path.is_dir() else []
    return [fold for fold in folds if is_dangling(fold) or is_named(fold / DESCRIPTION)]


def refuse_incomplete(path: Path, whole: Collection[Path]) -> None:
    """Raise InputError if the ensemble folder `path` has a fold that is not among its `whole` ones."""
    absent = sorted(p for p in path.glob("fold_*") if p.is_dir() and p not in whole)
    if absent:
        raise InputError(
            "A fold of the ensemble has no weights.",
            file=path,
            found=", ".join(fold.name for fold in absent),
            hint="copy the folder again; or, to do without this fold, move it elsewhere or name the others one by one",
        )


def _no_model(path: Path) -> InputError:
    if (path / DESCRIPTION).is_symlink():
        refuse_absent(path / DESCRIPTION, "file", f"the model's {DESCRIPTION}")
    hint = "train one, or bring PyTorch weights over: mednext-jax convert SOURCE TARGET"
    if path.is_symlink() or path.is_file():
        refuse_absent(path, "model", "a model directory")
    if not path.exists():
        refuse_no_folder(path, "The model does not exist.", expected="a model directory", hint=hint)
    if is_archive(path):
        return InputError(
            "The model is packed.",
            file=path,
            expected=f"a folder with {DESCRIPTION} and {WEIGHTS}",
            found="an archive",
            hint="unpack it (unzip, tar -xf) and name the folder in it",
        )
    if folds := sorted(p.parents[1] for p in path.glob(f"*/model/{DESCRIPTION}")):
        hint = f"name each of the trainings below: {' '.join(f'-m {fold}' for fold in folds[:3])} ..."
    elif (path / "checkpoints").is_dir():
        hint = "the training in this folder has not finished: repeat its `mednext-jax train` command"
    return InputError(
        "This is not a model directory.",
        file=path,
        expected=f"a folder with {DESCRIPTION} and {WEIGHTS}",
        found="a file" if path.is_file() else f"a folder without {DESCRIPTION}",
        hint=hint,
    )


def is_archive(path: Path) -> bool:
    """Whether `path` is a zip or tar archive in which models may be packed, and not a PyTorch file."""
    return path.is_file() and not _is_torch_file(path) and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))


def _is_torch_file(path: Path) -> bool:
    """Whether torch.save wrote it: its files are zip archives, too."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return False


def _read_description(file: Path) -> dict[str, Any]:
    description = read_json(file)
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise InputError("This is not a model description.", file=file, expected=f'"format": "{FORMAT}"')
    if description.get("format_version") != FORMAT_VERSION:
        raise InputError(
            "The model is of another format version.",
            file=file,
            expected=f"format_version {FORMAT_VERSION}",
            found=repr(description.get("format_version"))[:50],
            hint="update mednext-jax, or " + _RECONVERT,
        )
    problems = [
        Problem(f"The part {name!r} is missing.", str(file), hint=_RECONVERT)
        for name in _PARTS
        if name not in description
    ]
    problems += [
        Problem(f"The part {name[:100]!r} is unknown.", str(file), expected=", ".join(_PARTS), hint=_RECONVERT)
        for name in description
        if name not in _PARTS
    ]
    for name in ("architecture", "recipe", "provenance", "weights"):
        if not isinstance(description.get(name, {}), dict):
            problems.append(Problem(f"The part {name!r} is no JSON object.", str(file), hint=_RECONVERT))
    if problems:
        raise InputError.of(problems)
    return description


def _section(path: Path, name: str, read: Any, value: dict[str, Any]) -> Any:
    """Parse one part of the description; its errors get the file's name."""
    try:
        return read(value)
    except InputError as error:
        file = f"{path / DESCRIPTION} ({name})"
        problems = [dataclasses.replace(problem, file=problem.file or file) for problem in error.problems]
        raise InputError.of(problems) from None


def _read_weights(file: Path, claim: dict[str, Any], config: MedNeXtConfig) -> Params:
    tensors = read_tensors(file)
    shapes = expected_shapes(config)
    found = {name: (str(x.dtype), x.shape) for name, x in tensors.items()}
    stored = {name: [(kind, shape) for kind in _STORED] for name, shape in shapes.items()}
    wrong = [name for name, kinds in stored.items() if found.get(name, kinds[0]) not in kinds]
    if wrong or set(found) != set(shapes):
        missing, surplus = sorted(set(shapes) - set(found)), sorted(set(found) - set(shapes))
        first = (missing + surplus + wrong)[0]
        raise InputError(
            f"{DESCRIPTION} describes another architecture than the weights are of.",
            file=file,
            expected=f"{first}: {'float32 ' + str(shapes[first]) if first in shapes else 'no such tensor'}",
            found=f"{' '.join(map(str, found[first]))}" if first in found else "no such tensor",
            hint="take both files from the same model directory",
        )
    if claim.get("sha256") != sha256(file):
        raise InputError(
            "The weights are not those that the description was written for (sha256 differs).",
            file=file,
            expected=str(claim.get("sha256"))[:80],
            hint=f"copy the model directory again, or {_RECONVERT}",
        )
    return from_torch_names(config, {name: tensors[name] for name in shapes if name != DUMMY}, file=file)
