"""What a model expects of a scan and how its output is read: stored with the weights, obeyed by `predict`."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any

from mednext_jax.errors import InputError, Problem
from mednext_jax.model.config import EXTENT_MULTIPLE, MedNeXtConfig
from mednext_jax.preprocess.clean import STEPS

NORMALISATIONS = ("zscore", "none", "ct")
INTENSITY_KEYS = ("mean", "std", "percentile_00_5", "percentile_99_5")


# Fields that JSON holds as lists.
_TUPLES = (
    *("channel_names", "regions_class_order", "patch_size", "spacing", "cleaning", "normalisation"),
    *("intensity_properties", "mirror_axes"),
)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Preprocessing, tiling and read-out of one model; axis order (d, h, w) throughout.

    Raises InputError that names every field that is wrong.
    """

    channel_names: tuple[str, ...] = ("MRI",)
    # Consecutive from 0, which is the background.
    labels: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"background": 0, "PVS": 1})
    # For overlapping regions (sigmoid outputs): the label value that each writes, later over earlier; None: softmax.
    regions_class_order: tuple[int, ...] | None = None
    patch_size: tuple[int, int, int] = (128, 128, 128)  # voxels
    spacing: tuple[float, float, float] | None = None  # mm; None keeps each scan's own
    orientation: str | None = "RAS"  # None leaves the axes as they are stored (nnU-Net's way)
    cleaning: tuple[str, ...] = ()  # steps of preprocess.clean, done before anything else
    crop_to_nonzero: bool = True
    normalisation: tuple[str, ...] = ("zscore",)  # one a channel
    use_mask_for_norm: bool = False  # statistics from, and values only in, the non-zero mask
    # One mapping a channel with INTENSITY_KEYS, from the training set's foreground; only "ct" needs it.
    intensity_properties: tuple[Mapping[str, float], ...] | None = None
    mirror_axes: tuple[int, ...] = (0, 1, 2)  # of test-time augmentation
    average: str = "logits"  # what tiles, mirrors and models are averaged in: "logits" or "softmax"
    threshold: float = 0.5  # of the foreground probability

    def __post_init__(self) -> None:
        for name in _TUPLES:
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        problems = [
            Problem(f"The recipe's {name} is not valid.", expected=expected, found=repr(getattr(self, name))[:200])
            for name, (valid, expected) in self._rules().items()
            if not valid
        ]
        if problems:
            raise InputError.of(problems)

    def _rules(self) -> dict[str, tuple[bool, str]]:
        channels, labels, patch, spacing = self.channel_names, self.labels, self.patch_size, self.spacing
        named = isinstance(channels, tuple) and len(channels) > 0 and all(isinstance(c, str) for c in channels)
        count = len(channels) if named else -1
        values, order = len(labels) if isinstance(labels, Mapping) else 0, self.regions_class_order
        norms = self.normalisation if isinstance(self.normalisation, tuple) else ()
        return {
            "channel_names": (named, "at least one name"),
            "labels": (
                isinstance(labels, Mapping)
                and len(labels) > 1
                and all(isinstance(name, str) and type(value) is int for name, value in labels.items())
                and sorted(labels.values()) == list(range(len(labels))),
                "names for the values 0, 1, 2, ..., each once; 0 is the background",
            ),
            "regions_class_order": (
                order is None
                or (
                    isinstance(order, tuple)
                    and all(type(value) is int for value in order)
                    and sorted(order) == list(range(1, values))
                ),
                "each label value but 0 once, or null",
            ),
            "patch_size": (
                _three(patch) and all(type(p) is int and 0 < p <= 4096 and p % EXTENT_MULTIPLE == 0 for p in patch),
                f"three multiples of {EXTENT_MULTIPLE} (voxels)",
            ),
            "spacing": (
                spacing is None or (_three(spacing) and all(_number(s) and 0 < s < 1000 for s in spacing)),
                "three numbers (mm), or null",
            ),
            "orientation": (self.orientation in ("RAS", None), '"RAS" or null'),
            "cleaning": (
                isinstance(self.cleaning, tuple)
                and self.cleaning == tuple(step for step in STEPS if step in self.cleaning),
                f"some of {', '.join(STEPS)}, in this order",
            ),
            "crop_to_nonzero": (isinstance(self.crop_to_nonzero, bool), "true or false"),
            "normalisation": (
                len(norms) == count and all(isinstance(n, str) and n in NORMALISATIONS for n in norms),
                f"one of {', '.join(NORMALISATIONS)} for each channel",
            ),
            "use_mask_for_norm": (isinstance(self.use_mask_for_norm, bool), "true or false"),
            "intensity_properties": (
                _intensities(self.intensity_properties, count, required="ct" in norms),
                f"for each channel {', '.join(INTENSITY_KEYS)}; null if no channel is normalised as ct",
            ),
            "mirror_axes": (
                isinstance(self.mirror_axes, tuple)
                and all(type(axis) is int and 0 <= axis < 3 for axis in self.mirror_axes)
                and len(set(self.mirror_axes)) == len(self.mirror_axes),
                "some of 0, 1, 2",
            ),
            "average": (self.average in ("logits", "softmax"), '"logits" or "softmax"'),
            "threshold": (_number(self.threshold) and 0 < self.threshold < 1, "a number between 0 and 1"),
        }

    @property
    def read_out(self) -> float | None:
        """The threshold by which foreground is told from background; None with three or more classes: the argmax."""
        return self.threshold if len(self.labels) == 2 or self.regions_class_order is not None else None

    def check_fits(self, config: MedNeXtConfig, *, file: object = None) -> None:
        """Raise InputError if channels or labels are not as many as the network's."""
        pairs = (
            ("channel_names", len(self.channel_names), "input channels", config.in_channels),
            ("labels", len(self.labels) - (self.regions_class_order is not None), "classes", config.num_classes),
        )
        for name, found, what, expected in pairs:
            if found != expected:
                raise InputError(
                    f"The recipe's {name} do not fit the network's {what}.",
                    file=file,
                    expected=f"{expected} of them",
                    found=f"{found}: {', '.join(getattr(self, name))}"[:200],
                )

    def to_dict(self) -> dict[str, Any]:
        """Every field as plain JSON values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["labels"] = dict(self.labels)
        if self.intensity_properties is not None:
            values["intensity_properties"] = [dict(channel) for channel in self.intensity_properties]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """The recipe of `to_dict`'s result; absent fields take their default, unknown ones raise InputError."""
        known = [field.name for field in dataclasses.fields(cls)]
        problems = []
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else "known fields: " + ", ".join(known)
                problems.append(Problem(f"unknown recipe field {name[:100]!r}", hint=hint))
        if problems:
            raise InputError.of(problems)
        return cls(**values)


def _three(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 3


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _intensities(value: Any, channels: int, *, required: bool) -> bool:
    if value is None:
        return not required
    return (
        isinstance(value, tuple)
        and len(value) == channels
        and all(isinstance(c, Mapping) and all(_number(c.get(key)) for key in INTENSITY_KEYS) for c in value)
    )
