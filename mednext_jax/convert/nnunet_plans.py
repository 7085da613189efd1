"""nnU-Net's plans -> Recipe, so that `predict` repeats what the tool itself would do with the same weights.

v1 (MIC-DKFZ fork): the pickle beside a .model file; its inference averages softmax.
v2: plans.json and dataset.json, or their copies in the checkpoint's init_args; its inference averages logits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mednext_jax.errors import InputError
from mednext_jax.weights.recipe import Recipe

_SCHEMES_V1 = {"CT": "ct", "CT2": "ct", "nonCT": "zscore", "noNorm": "none"}
_SCHEMES_V2 = {"CTNormalization": "ct", "ZScoreNormalization": "zscore", "NoNormalization": "none"}


@dataclasses.dataclass(frozen=True)
class Plan:
    """A recipe in the scan's own axis order, and the permutation that nnU-Net trained the network in."""

    recipe: Recipe
    transpose: tuple[int, int, int]  # network axis j is image axis transpose[j]
    facts: Mapping[str, Any]  # names for the provenance: trainer, task, configuration, ...


def plan_of_v1(info: Any, *, file: object) -> Plan:
    """From the content of a `.model.pkl`: {"init", "name", "class", "plans"}. Raises InputError if it is no such."""
    with _reading(file):
        plans = info["plans"]
        stage = _stage_of_v1(info, plans)
        staged = plans["plans_per_stage"][stage]
        channels = int(plans["num_modalities"])
        schemes = [plans["normalization_schemes"][i] for i in range(channels)]
        names = plans.get("modalities") or plans.get("dataset_properties", {}).get("modalities") or {}
        properties = (plans.get("dataset_properties") or {}).get("intensityproperties") or {}
        return _plan(
            file,
            channel_names=[str(names.get(i, f"channel_{i}")) for i in range(channels)],
            labels={"background": 0} | {f"label_{i}": i for i in range(1, int(plans["num_classes"]) + 1)},
            patch_size=staged["patch_size"],
            spacing=staged["current_spacing"],
            schemes=[_scheme(_SCHEMES_V1, scheme, file) for scheme in schemes],
            masked=[bool(plans["use_mask_for_norm"][i]) for i in range(channels)],
            intensities=[properties.get(i) or {} for i in range(channels)],
            transpose=plans.get("transpose_forward") or (0, 1, 2),
            mirror_axes=(0, 1, 2),
            average="softmax",
            facts={"trainer": str(info.get("name"))[:200], "stage": int(stage)},
        )


def plan_of_v2(
    plans: Any, dataset: Any, configuration: str, mirror_axes: Sequence[int] | None, *, file: object
) -> Plan:
    """From plans.json, dataset.json, and what the checkpoint says. Raises InputError if a part is missing."""
    with _reading(file):
        chosen = _inherited(plans["configurations"], configuration)
        names = dataset.get("channel_names") or dataset["modality"]
        channels = len(names)
        labels = {name: value for name, value in dataset["labels"].items() if name != "ignore"}
        if any(isinstance(value, list | tuple) for value in labels.values()):
            raise InputError(
                "The data set has overlapping regions for labels, which the softmax of this package cannot express.",
                file=file,
            )
        properties = plans.get("foreground_intensity_properties_per_channel") or {}
        return _plan(
            file,
            channel_names=[str(names[str(i)] if str(i) in names else names[i]) for i in range(channels)],
            labels={str(name): int(value) for name, value in labels.items()},
            patch_size=chosen["patch_size"],
            spacing=chosen["spacing"],
            schemes=[_scheme(_SCHEMES_V2, scheme, file) for scheme in chosen["normalization_schemes"]],
            masked=[bool(flag) for flag in chosen["use_mask_for_norm"]],
            intensities=[properties.get(str(i)) or {} for i in range(channels)],
            transpose=plans.get("transpose_forward") or (0, 1, 2),
            mirror_axes=mirror_axes or (),
            average="logits",
            facts={"plans": str(plans.get("plans_name"))[:200], "configuration": configuration},
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
) -> Plan:
    axes = tuple(int(axis) for axis in transpose)
    if len(patch_size) != 3 or sorted(axes) != [0, 1, 2]:
        raise InputError(
            "The plans are not of a 3D configuration.", file=file, found=f"patch {list(patch_size)}, axes {axes}"
        )
    back = np.argsort(axes)
    used = {flag for flag, scheme in zip(masked, schemes, strict=True) if scheme == "zscore"}
    if len(used) > 1:
        raise InputError(
            "use_mask_for_norm differs between channels, which a model directory cannot express.", file=file
        )
    recipe = Recipe(
        channel_names=tuple(channel_names),
        labels=labels,
        patch_size=tuple(int(patch_size[i]) for i in back),  # type: ignore[arg-type]
        spacing=tuple(float(spacing[i]) for i in back),  # type: ignore[arg-type]
        orientation=None,  # nnU-Net takes the axes as they are stored
        normalisation=tuple(schemes),
        use_mask_for_norm=used == {True},
        intensity_properties=tuple(_intensity(i) for i in intensities) if "ct" in schemes else None,
        mirror_axes=tuple(sorted(axes[int(axis)] for axis in mirror_axes)),
        average=average,
    )
    return Plan(recipe, axes, facts)  # type: ignore[arg-type]


def _stage_of_v1(info: Mapping[str, Any], plans: Mapping[str, Any]) -> int:
    """The trainer's sixth argument; None stands for the only (full-resolution) stage."""
    init: Any = info.get("init") or ()
    stage = init[5] if len(init) > 5 else None
    return max(plans["plans_per_stage"]) if stage is None else stage


def _inherited(configurations: Mapping[str, Any], name: str, depth: int = 0) -> dict[str, Any]:
    """A v2 configuration with what it inherits."""
    own = configurations[name]
    parent = own.get("inherits_from")
    if parent is None or depth > 8:
        return dict(own)
    return _inherited(configurations, parent, depth + 1) | own


def _scheme(known: Mapping[str, str], name: Any, file: object) -> str:
    if name not in known:
        raise InputError(
            "The plans ask for a normalisation that is not supported.",
            file=file,
            expected=", ".join(known),
            found=ascii(name)[:80],
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
        if isinstance(error, KeyError | TypeError | ValueError | IndexError | AttributeError | OverflowError):
            text = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise InputError(
                "The plans cannot be understood.", file=self.file, expected="nnU-Net's plans", found=text[:200]
            ) from None
