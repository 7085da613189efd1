"""`mednext-jax convert` and `mednext-jax info`."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from mednext_jax.convert.architecture import describe
from mednext_jax.convert.nnunet_export import write_v1, write_v2
from mednext_jax.convert.sources import WeightSource, count, read_sources
from mednext_jax.convert.writers import to_torch
from mednext_jax.errors import InputError, shown
from mednext_jax.io.atomic import atomic_directory, refuse_existing
from mednext_jax.io.geometry import in_mm
from mednext_jax.weights.directory import save_model
from mednext_jax.weights.recipe import Recipe
from mednext_jax.weights.upkern import upkern as enlarge

_LONGEST_FACT = 160  # characters of a fact that `info` writes out
Target = Literal["mednext-jax", "mic", "monai", "nnunet-v1", "nnunet-v2"]


def convert(
    source: str | os.PathLike, target: str | os.PathLike, to: Target = "mednext-jax", upkern: int | None = None
) -> None:
    """Bring weights from any readable source to `target` in the form `to`, and print what was found.

    `source`: a checkpoint, a model directory, or a folder of folds (all are converted, to an ensemble).
    `upkern`: resample the depthwise kernels to this odd size on the way.
    Raises InputError if `target` exists, the source cannot be read, or the target format cannot express it.
    """
    refuse_existing(target)
    found = read_sources(source)
    if upkern is not None:
        found = {fold: _enlarged(network, upkern) for fold, network in found.items()}
    print(_describe(found))
    notes: list[str] = []
    if to == "mednext-jax":
        _write_models(Path(target), found)
    elif to in ("mic", "monai"):
        _write_state_dicts(Path(target), found, "mic" if to == "mic" else "monai")
    elif to in ("nnunet-v1", "nnunet-v2"):
        notes = write_v1(target, found) if to == "nnunet-v1" else write_v2(target, found)
    else:
        raise InputError("unknown target format", expected=", ".join(Target.__args__), found=repr(to))  # type: ignore[attr-defined]
    print("\n".join([f"written  {shown(target)} ({to})", *(f"note     {shown(note)}" for note in notes)]))


def info(path: str | os.PathLike) -> str:
    """What a checkpoint, model directory or folder of folds holds, as text. Raises InputError as `convert` does."""
    return _describe(read_sources(path))


def info_json(path: str | os.PathLike) -> str:
    """What `info` tells, as JSON: {"networks": [{"fold", "source", "kind", "network", "parameters", ...}, ...]}."""
    networks = [
        {
            "fold": fold or None,
            "source": str(one.path),
            "kind": one.kind,
            "network": one.name,
            "parameters": count(one.params),
            "architecture": one.config.to_dict(),
            "recipe": one.recipe.to_dict(),
            "provenance": {name: value for name, value in one.provenance.items() if name != "notes"},
            "notes": list(dict.fromkeys(one.notes)),
        }
        for fold, one in read_sources(path).items()
    ]
    return json.dumps({"networks": networks}, indent=2)


def _describe(found: Mapping[str, WeightSource]) -> str:
    return "\n\n".join((f"[{shown(fold)}]\n" if fold else "") + _describe_one(source) for fold, source in found.items())


def _describe_one(source: WeightSource) -> str:
    config, recipe = source.config, source.recipe
    spacing = "each scan's own" if recipe.spacing is None else f"{in_mm(reversed(recipe.spacing))} (x, y, z)"
    mask = ", inside the non-zero mask" if recipe.use_mask_for_norm else ""
    order = recipe.regions_class_order
    regions = "" if order is None else f", overlapping regions written as {', '.join(map(str, order))}"
    lines = {
        "source": f"{source.path} ({source.kind})",
        "network": source.name,
        "parameters": f"{count(source.params):,}",
        "channels": f"{config.in_channels} in ({', '.join(recipe.channel_names)})",
        "classes": f"{config.num_classes} ({', '.join(recipe.labels)})" + regions,
        "heads": "5 (deep supervision)" if config.deep_supervision else "1",
        "patch": " x ".join(map(str, recipe.patch_size)) + " voxels (d, h, w)",
        "spacing": spacing,
        "optional steps": ", ".join(recipe.optional_steps) or "none",
        "intensities": ", ".join(recipe.normalisation) + mask,
        "orientation": recipe.orientation or "as stored",
        "decides": _rule(recipe),
        "averages": f"{recipe.average}, mirrored along axes {', '.join(map(str, recipe.mirror_axes)) or 'none'}",
    }
    facts = {name: value for name, value in source.provenance.items() if name != "notes"}
    text = [f"{name:<12} {shown(value)}" for name, value in lines.items()]
    text += [f"{'provenance':<12} {shown(f'{name}: {_brief(value)}')}" for name, value in facts.items()]
    text += [f"{'note':<12} {shown(note)}" for note in dict.fromkeys(source.notes)]
    return "\n".join(text)


def _brief(value: object) -> object:
    """A fact that fits into a line, or how much of it there is."""
    if isinstance(value, Mapping | list) and len(str(value)) > _LONGEST_FACT:
        return f"{len(value)} entries; info --json has them"
    return value


def _rule(recipe: Recipe) -> str:
    """How voxels are told to be PVS, in words."""
    threshold = recipe.decision_threshold
    if threshold is None:
        return "by the most probable class"
    rows = [
        f"{'any contrast' if row['contrast'] is None else row['contrast']}"
        + ("" if row["largest_voxel"] is None else f" up to {row['largest_voxel']:g} mm")
        + f" {row['threshold']:g}"
        for row in recipe.thresholds
    ]
    scaled = "" if recipe.temperature == 1 else f"; logits divided by {recipe.temperature:g}"
    return "; ".join([f"by a threshold, {threshold:g}", *rows]) + scaled


def _enlarged(source: WeightSource, size: int) -> WeightSource:
    config, params = enlarge(source.config, source.params, size)
    note = f"UpKern: kernels resampled from {source.config.encoder_kernel_size} to {size}"
    provenance = {**source.provenance, "upkern": size}
    return dataclasses.replace(
        source,
        config=config,
        params=params,
        name=describe(config),
        provenance=provenance,
        notes=(*source.notes, note),
    )


def _write_models(target: Path, found: Mapping[str, WeightSource]) -> None:
    if list(found) == [""]:
        source = found[""]
        save_model(target, source.config, source.params, source.recipe, source.provenance)
        return
    with atomic_directory(target) as folder:
        for fold, source in found.items():
            name = fold if fold.startswith("fold_") else f"fold_{fold}"
            save_model(folder / name, source.config, source.params, source.recipe, source.provenance)


def _write_state_dicts(target: Path, found: Mapping[str, WeightSource], flavour: Literal["mic", "monai"]) -> None:
    if list(found) == [""]:
        to_torch(target, found[""].config, found[""].params, flavour)
        return
    with atomic_directory(target) as folder:
        for fold, source in found.items():
            to_torch(folder / f"{fold}.pt", source.config, source.params, flavour)
