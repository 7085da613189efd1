"""From any source of MedNeXt weights to configuration, parameters, recipe and provenance."""

from __future__ import annotations

import dataclasses
import datetime
import mmap
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mednext_jax.convert.architecture import Architecture, describe, recognise
from mednext_jax.convert.containers import Checkpoint, read_checkpoint
from mednext_jax.convert.nnunet_plans import Plan, plan_of_v1, plan_of_v2, to_image_axes
from mednext_jax.convert.torch_reader.pickle_reader import read_pickle
from mednext_jax.errors import InputError
from mednext_jax.io.absent import is_dangling, is_named, refuse_absent, refuse_no_folder
from mednext_jax.io.json_file import MIB, read_json
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.version import __version__
from mednext_jax.weights.directory import DESCRIPTION, load_model, of_workdir, refuse_incomplete, sha256
from mednext_jax.weights.names import Params, from_torch_names
from mednext_jax.weights.recipe import Recipe

# nnU-Net's own order of trust, v2 then v1.
_CHECKPOINTS = tuple(
    [f"checkpoint_{which}.pth" for which in ("final", "best", "latest")]
    + [f"model_{which}.model" for which in ("final_checkpoint", "best", "latest")]
)
_PLANS_LIMIT = 64 * MIB


@dataclasses.dataclass(frozen=True)
class WeightSource:
    """One network as it was found."""

    path: Path
    kind: str  # what wrote it
    name: str  # "MedNeXt-L k5, MIC-DKFZ"
    config: MedNeXtConfig
    params: Params
    recipe: Recipe
    provenance: Mapping[str, Any]
    notes: tuple[str, ...]


def read_sources(path: str | os.PathLike) -> dict[str, WeightSource]:
    """All networks at `path` (`find_networks`), by fold name; a single one has the name "".

    Raises InputError if nothing is found or something is wrong with what is.
    """
    return {fold: read_source(network) for fold, network in find_networks(path).items()}


def find_networks(path: str | os.PathLike) -> dict[str, Path]:
    """Fold name -> checkpoint file or model directory, of all networks at `path`; a single one has the name "".

    `path`: a checkpoint file, a model directory, an ensemble of them, an nnU-Net fold, or an nnU-Net model folder
    with fold_0, fold_1, ..., or a training's workdir, which stands for its model.
    Raises InputError if nothing is found, or a fold is missing.
    """
    path = of_workdir(Path(path))
    found = networks_in(path)
    if not found:
        raise InputError(
            "The folder holds no weights.",
            file=path,
            expected=f"{DESCRIPTION}, {_CHECKPOINTS[0]}, {_CHECKPOINTS[3]}, or folders fold_0, fold_1, ...",
            found=", ".join(sorted(p.name for p in path.iterdir())[:6]) or "nothing",
            hint=f"name the file itself, such as {file}" if (file := _some_checkpoint(path)) else None,
        )
    return found


def networks_in(path: Path) -> dict[str, Path]:
    """What `find_networks` finds, {} for a folder without weights. Raises InputError if a fold is missing."""
    if not path.is_dir() or is_named(path / DESCRIPTION):
        return {"": path}
    checkpoint = _checkpoint_in(path)
    if checkpoint is not None:
        return {"": checkpoint}
    found: dict[str, Path] = {}
    for fold in sorted(p for p in path.iterdir() if re.fullmatch(r"fold_(\d+|all)|all", p.name)):
        if is_dangling(fold):
            refuse_no_folder(fold, "A fold is missing.", expected="a folder with a checkpoint")
        checkpoint = _checkpoint_in(fold)
        if is_named(fold / DESCRIPTION):
            found[fold.name] = fold
        elif checkpoint is not None:
            found[fold.name] = checkpoint
    if found:
        refuse_incomplete(path, [path / fold for fold in found])
    return found


def read_source(path: Path) -> WeightSource:
    """The one network of a checkpoint file or of a model directory. Raises InputError for what is wrong with it."""
    return _read_model(path) if path.is_dir() else _read_file(path)


def plan_files(checkpoint: Path) -> tuple[Path, ...]:
    """The files around a checkpoint that tell how nnU-Net trained it, and that are there: read with it."""
    above = checkpoint.absolute().parent.parent
    beside = (_pickled(checkpoint), *(above / name for name in ("plans.pkl", "plans.json", "dataset.json")))
    return tuple(path for path in beside if is_named(path))


def from_torch(
    path: str | os.PathLike, *, norm: Literal["group", "layer"] = "group", residual: bool = True
) -> tuple[MedNeXtConfig, Params]:
    """Configuration and parameters of a PyTorch or safetensors file; runs without torch.

    `norm`, `residual`: say so if the network was built with norm_type="layer" or do_res=False, which its tensors do
    not show. Parameters are float32 whatever the file's type.
    Raises InputError for files that are damaged, hostile, or hold no 3D MedNeXt.
    """
    checkpoint = read_checkpoint(path)
    architecture = recognise(checkpoint.state, file=path, norm=norm, residual=residual)
    return architecture.config, _params(checkpoint, architecture)


def count(params: Mapping[str, Any]) -> int:
    """Number of parameters."""
    return sum(count(value) if isinstance(value, Mapping) else value.size for value in params.values())


def _read_file(path: Path) -> WeightSource:
    checkpoint = read_checkpoint(path)
    architecture = recognise(checkpoint.state, file=path)
    config, params = architecture.config, _params(checkpoint, architecture)
    notes = [*checkpoint.notes, *architecture.notes]
    if any(x.dtype == np.float64 for x in checkpoint.state.values()):
        notes.append("float64 weights were rounded to float32")
    plan = _plan(checkpoint)
    if plan is None:
        recipe = _unknown_recipe(config)
        notes.append(_assumed(recipe))
    else:
        recipe = plan.recipe
        recipe.check_fits(config, file=path)
        notes += plan.notes
        if plan.transpose != (0, 1, 2):
            params = _turn(params, plan.transpose)
            notes.append(f"nnU-Net's axis order {plan.transpose} was turned back in the kernels")
    provenance = {
        "source": path.name,
        "source_sha256": sha256(path),
        "source_kind": checkpoint.kind,
        "source_network": architecture.name,
        **({"nnunet": dict(plan.facts)} if plan else {}),
        "notes": notes,
        "converted_on": datetime.date.today().isoformat(),
        "converted_with": f"mednext-jax {__version__}",
    }
    return WeightSource(path, checkpoint.kind, architecture.name, config, params, recipe, provenance, tuple(notes))


def _read_model(path: Path) -> WeightSource:
    model = load_model(path)
    told = model.provenance.get("notes")
    notes = tuple(str(note) for note in told[:100]) if isinstance(told, list) else ()
    kind, name = "mednext-jax model directory", describe(model.config)
    return WeightSource(path, kind, name, model.config, model.params, model.recipe, model.provenance, notes)


def _params(checkpoint: Checkpoint, architecture: Architecture) -> Params:
    state = {key: x for key, x in checkpoint.state.items() if key not in architecture.unused}
    return from_torch_names(architecture.config, state, architecture.flavour, file=checkpoint.path)


def _checkpoint_in(folder: Path) -> Path | None:
    return next((folder / name for name in _CHECKPOINTS if is_named(folder / name)), None)


def _some_checkpoint(folder: Path) -> Path | None:
    """A file of the folder that looks like weights by its ending, under a name that nnU-Net does not write."""
    endings = (".pt", ".pth", ".ckpt", ".safetensors", ".model")
    return next((path for path in sorted(folder.iterdir()) if path.name.lower().endswith(endings)), None)


def _unknown_recipe(config: MedNeXtConfig) -> Recipe:
    return Recipe(
        channel_names=tuple(f"channel_{i}" for i in range(config.in_channels)),
        labels={"background": 0} | {f"label_{i}": i for i in range(1, config.num_classes)},
        orientation=None,
        normalisation=("zscore",) * config.in_channels,
    )


def _assumed(recipe: Recipe) -> str:
    """What a model without plans is given, as a note."""
    patch = " x ".join(map(str, recipe.patch_size))
    mirrors = " ".join(map(str, recipe.mirror_axes))
    return (
        "no plans found, so these are assumed; set them to yours in model.json: "
        f"patch {patch}, each scan's own voxel size, axes as the scan is stored (orientation), "
        f"crop to what is not zero, z-score of each channel, {recipe.average} averaged over tiles and mirrors of axes "
        f"{mirrors}, threshold {recipe.threshold:g}, and the names of channels and labels"
    )


def _plan(checkpoint: Checkpoint) -> Plan | None:
    path, rest = checkpoint.path, checkpoint.rest
    pickled = _pickled(path)
    if is_named(pickled):
        return plan_of_v1(_read_pickled_plans(pickled), file=pickled)
    if checkpoint.kind == "nnU-Net v1 checkpoint" and (plan := _plan_beside_folds(path)) is not None:
        return plan
    init = rest.get("init_args")
    if not isinstance(init, dict) or "configuration" not in init:
        return None
    # the files beside the folds are what nnUNetv2_predict obeys; the checkpoint's copies are older
    beside = path.parent.parent / "plans.json", path.parent.parent / "dataset.json"
    if all(map(is_named, beside)):
        plans, dataset = (read_json(file, limit=16 * MIB) for file in beside)
    elif isinstance(init.get("plans"), dict) and isinstance(init.get("dataset_json"), dict):
        plans, dataset = init["plans"], init["dataset_json"]
    else:
        return None
    axes = rest.get("inference_allowed_mirroring_axes")
    return plan_of_v2(plans, dataset, init["configuration"], axes, file=path)


def _pickled(checkpoint: Path) -> Path:
    """The plans that nnU-Net v1 writes beside a checkpoint."""
    return checkpoint.with_name(checkpoint.name + ".pkl")


def _plan_beside_folds(path: Path) -> Plan | None:
    """The plans.pkl of nnU-Net v1's model folder, one above the fold, for a .model whose own .pkl is missing."""
    folder = path.absolute().parent.parent
    pickled = folder / "plans.pkl"
    if not is_named(pickled):
        return None
    lowest = is_lowres(path)
    info = {"plans": _read_pickled_plans(pickled), "name": folder.name}
    if lowest:
        info["init"] = (None,) * 5 + (0,)
    plan = plan_of_v1(info, file=pickled)
    stage = "the first stage (3d_lowres)" if lowest else "the stage of full resolution"
    note = f"{path.name}.pkl is missing: read {pickled.name} one folder up instead, and assumed {stage}"
    return dataclasses.replace(plan, notes=(note, *plan.notes))


def is_lowres(checkpoint: Path) -> bool:
    """Whether the folders of nnU-Net v1 say that a checkpoint is of the first stage."""
    return "3d_lowres" in checkpoint.absolute().parent.parent.parts


def _read_pickled_plans(path: Path) -> Any:
    refuse_absent(path, "file", "nnU-Net's plans, a pickle")
    size = path.stat().st_size
    if not 0 < size <= _PLANS_LIMIT:
        raise InputError("The plans have an impossible size.", file=path, expected="1 byte to 64 MiB", found=f"{size}")
    with path.open("rb") as file:
        return read_pickle(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), file=path)


def _turn(params: Params, transpose: tuple[int, int, int], in_depthwise: bool = False) -> Params:
    return {
        name: _turn(value, transpose, name == "conv1")
        if isinstance(value, dict)
        else to_image_axes(value, transpose)
        if in_depthwise and name == "kernel"
        else value
        for name, value in params.items()
    }
