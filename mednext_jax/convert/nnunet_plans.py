"""nnU-Net's plans -> Recipe, so that `predict` repeats what the tool itself would do with the same weights.

v1 (MIC-DKFZ fork): the pickle beside a .model file; its inference averages softmax.
v2: plans.json and dataset.json, or their copies in the checkpoint's init_args; its inference averages logits.
What the plans come from may be hostile: they are measured before any of it is shown, compared or hashed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mednext_jax.errors import InputError
from mednext_jax.preprocess.normalise import SCHEMES, needs_intensities
from mednext_jax.weights.recipe import Recipe

# nnU-Net v2's readers of volumes that leave the axes as they are stored. The others turn them to RAS.
_READERS_AS_STORED = ("SimpleITKIO", "NibabelIO", "Tiff3DIO", "NaturalImage2DIO")
_TURNS_TO_RAS = "WithReorient"
# Real plans of 1000 cases have some 100,000 values.
_VALUES_LIMIT, _DEPTH_LIMIT, _COUNT_LIMIT = 1_000_000, 64, 4096


@dataclasses.dataclass(frozen=True)
class Plan:
    """A recipe in the scan's own axis order, and the permutation that nnU-Net trained the network in."""

    recipe: Recipe
    transpose: tuple[int, int, int]  # network axis j is image axis transpose[j]
    facts: Mapping[str, Any]  # names for the provenance: trainer, task, configuration, ...
    notes: tuple[str, ...] = ()  # what the plans do not say and was assumed


def plan_of_v1(info: Any, *, file: object) -> Plan:
    """From the content of a `.model.pkl`: {"init", "name", "class", "plans"}. Raises InputError if it is no such.

    Without "init", as for the plans.pkl of a trainer's folder, the stage is the one of full resolution.
    """
    with _reading(file):
        _measure(info)
        plans = info["plans"]
        stage = _stage_of_v1(info, plans)
        staged = plans["plans_per_stage"][stage]
        channels = _count("num_modalities", plans["num_modalities"])
        schemes = [plans["normalization_schemes"][i] for i in range(channels)]
        names = plans.get("modalities") or plans.get("dataset_properties", {}).get("modalities") or {}
        properties = (plans.get("dataset_properties") or {}).get("intensityproperties") or {}
        notes = ["assumed: axes as the scan is stored, because nnU-Net v1 does not turn them"]
        notes += ["assumed: the names of the labels, which plans of nnU-Net v1 do not hold"]
        notes += [] if names else ["assumed: the names of the channels, which the plans do not hold"]
        return _plan(
            file,
            channel_names=[str(names.get(i, f"channel_{i}")) for i in range(channels)],
            labels={"background": 0}
            | {f"label_{i}": i for i in range(1, _count("num_classes", plans["num_classes"]) + 1)},
            patch_size=staged["patch_size"],
            spacing=staged["current_spacing"],
            schemes=[_scheme({key: s.nnunet_v1 for key, s in SCHEMES.items()}, scheme, file) for scheme in schemes],
            masked=[bool(plans["use_mask_for_norm"][i]) for i in range(channels)],
            intensities=[properties.get(i) or {} for i in range(channels)],
            transpose=_given(plans.get("transpose_forward"), (0, 1, 2)),
            mirror_axes=(0, 1, 2),
            average="softmax",
            facts={"trainer": str(info.get("name"))[:200], "stage": int(stage)},
            notes=notes,
        )


def plan_of_v2(
    plans: Any, dataset: Any, configuration: Any, mirror_axes: Sequence[int] | None, *, file: object
) -> Plan:
    """From plans.json, dataset.json, and what the checkpoint says. Raises InputError if a part is missing."""
    with _reading(file):
        _measure((plans, dataset, configuration, mirror_axes))
        chosen = _inherited(plans["configurations"], configuration)
        names = dataset.get("channel_names") or dataset["modality"]
        channels = _count("channel_names", len(names))
        labels, regions = _labels_of_v2(dataset, file)
        properties = plans.get("foreground_intensity_properties_per_channel") or {}
        reader, orientation, note = _reader_of_v2(plans, dataset)
        notes = [note] if note else []
        if mirror_axes is None:
            notes.append("assumed: no mirroring, because the checkpoint does not name the axes that allow it")
        return _plan(
            file,
            channel_names=[str(names[str(i)] if str(i) in names else names[i]) for i in range(channels)],
            labels=labels,
            regions=regions,
            patch_size=chosen["patch_size"],
            spacing=chosen["spacing"],
            orientation=orientation,
            schemes=[
                _scheme({key: s.nnunet_v2 for key, s in SCHEMES.items()}, scheme, file)
                for scheme in chosen["normalization_schemes"]
            ],
            masked=[bool(flag) for flag in chosen["use_mask_for_norm"]],
            intensities=[properties.get(str(i)) or {} for i in range(channels)],
            transpose=_given(plans.get("transpose_forward"), (0, 1, 2)),
            mirror_axes=_given(mirror_axes, ()),
            average="logits",
            facts={
                "plans": str(plans.get("plans_name"))[:200],
                "configuration": str(configuration)[:200],
                "reader": reader,
            },
            notes=notes,
        )


def to_image_axes(kernel: np.ndarray, transpose: Sequence[int]) -> np.ndarray:
    """A depthwise kernel (k, k, k, c) of a network in nnU-Net's axis order, turned to the image's."""
    return np.ascontiguousarray(kernel.transpose(*np.argsort(transpose), 3))


def _plan(
    file: object,
    *,
    channel_names: list[str],
    labels: dict[str, int],
    patch_size: Any,
    spacing: Any,
    schemes: list[str],
    masked: list[bool],
    intensities: list[Mapping[str, Any]],
    transpose: Any,
    mirror_axes: Sequence[int],
    average: str,
    facts: Mapping[str, Any],
    notes: Sequence[str],
    regions: tuple[int, ...] | None = None,
    orientation: str | None = None,
) -> Plan:
    axes = tuple(int(axis) for axis in transpose)
    if len(patch_size) != 3 or sorted(axes) != [0, 1, 2]:
        found = f"patch {' '.join(str(n)[:20] for n in patch_size[:8])}, axes {' '.join(map(str, axes[:8]))}"
        raise InputError("The plans are not of a 3D configuration.", file=file, found=found)
    if len(spacing) != 3 or len(mirror_axes) > 3:
        raise ValueError(f"{len(spacing)} spacings and {len(mirror_axes)} mirror axes of three")
    back = np.argsort(axes)
    used = {flag for flag, scheme in zip(masked, schemes, strict=True) if SCHEMES[scheme].masked}
    if len(used) > 1:
        raise InputError(
            "use_mask_for_norm differs between channels, which a model directory cannot express.", file=file
        )
    recipe = Recipe(
        channel_names=tuple(channel_names),
        labels=labels,
        regions_class_order=regions,
        patch_size=tuple(int(patch_size[i]) for i in back),  # type: ignore[arg-type]
        spacing=tuple(float(spacing[i]) for i in back),  # type: ignore[arg-type]
        orientation=orientation,
        normalisation=tuple(schemes),
        use_mask_for_norm=used == {True},
        intensity_properties=tuple(_intensity(i) for i in intensities) if needs_intensities(schemes) else None,
        mirror_axes=tuple(sorted(axes[int(axis)] for axis in mirror_axes)),
        average=average,
    )
    return Plan(recipe, axes, facts, tuple(notes))  # type: ignore[arg-type]


def _reader_of_v2(plans: Mapping[str, Any], dataset: Mapping[str, Any]) -> tuple[str, str | None, str | None]:
    """The class that reads scans for nnU-Net v2's predict, the orientation that it turns them to, and a note.

    The plans' own reader is obeyed; the data set's overrides the choice only when plans are made.
    """
    wished = dataset.get("overwrite_image_reader_writer")
    named = _given(plans.get("image_reader_writer"), None if wished in (None, "None") else wished)
    if named is None:
        return "not named", None, "assumed: axes as the scan is stored, because the plans name no reader"
    reader = str(named)[:100]
    if reader.endswith(_TURNS_TO_RAS):
        return reader, "RAS", None
    if reader in _READERS_AS_STORED:
        return reader, None, None
    return reader, None, f"assumed: axes as the scan is stored; the plans' reader {reader} is not known"


def _labels_of_v2(dataset: Mapping[str, Any], file: object) -> tuple[dict[str, int], tuple[int, ...] | None]:
    """Label name -> value written, and for overlapping regions their values in the network's order.

    As in nnU-Net, a list of one value is that value; labels are regions only if some list holds more.
    """
    given = {str(name)[:200]: value for name, value in dataset["labels"].items() if name != "ignore"}
    _count("labels", len(given))
    values = {name: tuple(v) if isinstance(v, list | tuple) else (v,) for name, v in given.items()}
    if all(len(v) == 1 for v in values.values()):
        return {name: int(v[0]) for name, v in values.items()}, None
    regions = [name for name, v in values.items() if set(v) != {0}]
    order = dataset.get("regions_class_order")
    numbers = tuple(order) if isinstance(order, list | tuple) else ()
    if len(numbers) != len(regions) or sorted(map(int, numbers)) != list(range(1, len(regions) + 1)):
        raise InputError(
            "The data set's overlapping regions are not written as the values 1, 2, ..., each once.",
            file=file,
            expected=f"regions_class_order: the values 1 to {len(regions)}, one per region",
            found=str(order)[:200],
        )
    written = tuple(int(number) for number in numbers)
    return {"background": 0} | dict(zip(regions, written, strict=True)), written


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


def _count(name: str, value: Any) -> int:
    """A number of channels or classes, before so many things are built."""
    count = int(value)
    if not 0 < count <= _COUNT_LIMIT:
        raise ValueError(f"{name}: {str(count)[:40]}, not 1 to {_COUNT_LIMIT}")
    return count


def _measure(value: Any) -> None:
    """Raise ValueError if a value unfolds to too much: a list that is shared in a pickle counts wherever it stands."""
    stack, left = [(value, 0)], _VALUES_LIMIT
    while stack:
        item, depth = stack.pop()
        left -= 1 + (len(item) // 16 if isinstance(item, str | bytes) else 0)
        children: Any = ()
        if isinstance(item, Mapping):
            children = (*item.keys(), *item.values())
        elif isinstance(item, list | tuple | set):
            children = item
        left -= len(children)
        if left < 0 or depth > _DEPTH_LIMIT:
            raise ValueError(f"more than {_VALUES_LIMIT:,} values, or more than {_DEPTH_LIMIT} levels of them")
        stack += [(child, depth + 1) for child in children]


def _stage_of_v1(info: Mapping[str, Any], plans: Mapping[str, Any]) -> int:
    """The trainer's sixth argument; None stands for the only (full-resolution) stage."""
    init: Any = info.get("init") or ()
    stage = init[5] if len(init) > 5 else None
    return max(plans["plans_per_stage"]) if stage is None else stage


def _inherited(configurations: Mapping[str, Any], name: str, depth: int = 0) -> dict[str, Any]:
    """A v2 configuration with what it inherits."""
    own = configurations[name]
    parent = own.get("inherits_from")
    if parent is None:
        return dict(own)
    if depth > 8:
        raise ValueError(f"the configuration {str(name)[:80]} inherits from itself, or over too many steps")
    return _inherited(configurations, parent, depth + 1) | own


def _scheme(names: Mapping[str, Sequence[str]], name: Any, file: object) -> str:
    """The scheme that plans call `name`; `names`: scheme -> its names in plans."""
    known = {called: scheme for scheme, every in names.items() for called in every}
    if not isinstance(name, str) or name not in known:
        raise InputError(
            "The plans ask for a normalisation that is not supported.",
            file=file,
            expected=", ".join(known),
            found=str(name)[:80],
            hint="convert the weights without their plans, and normalise the scans yourself",
        )
    return known[name]


def _intensity(found: Mapping[str, Any]) -> dict[str, float]:
    std = found.get("std", found.get("sd", 1.0))
    values = {"mean": found.get("mean", 0.0), "std": std}
    values |= {key: found.get(key, 0.0) for key in ("percentile_00_5", "percentile_99_5")}
    return {key: float(value) for key, value in values.items()}


class _reading:
    """Turn the errors of a plan that lacks something into an InputError."""

    def __init__(self, file: object):
        self.file = file

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, InputError):
            return
        if isinstance(error, _UNREADABLE):
            text = f"no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
            raise InputError(
                "The plans cannot be understood.", file=self.file, expected="nnU-Net's plans", found=text[:200]
            ) from None


_UNREADABLE = (
    *(KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, RecursionError, MemoryError),
)
