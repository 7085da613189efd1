"""What a model expects of a scan and how its output is read: stored with the weights, obeyed by `predict`."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, ClassVar

from mednext_jax.errors import InputError, Problem
from mednext_jax.model.config import EXTENT_MULTIPLE, MedNeXtConfig
from mednext_jax.preprocess.preprocessing import OLD_NAMES, Preprocessing, is_number, is_three
from mednext_jax.weights.threshold_table import EXPECTED as THRESHOLDS_EXPECTED
from mednext_jax.weights.threshold_table import ThresholdRow, is_threshold_table

MAX_LABELS = 256  # a mask is uint8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(Preprocessing):
    """How a model's scans are preprocessed and tiled, and how its output becomes labels; axis order (d, h, w).

    Raises InputError that names every field that is wrong.
    """

    channel_names: tuple[str, ...] = ("MRI",)
    # Consecutive from 0, which is the background.
    labels: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"background": 0, "PVS": 1})
    # For overlapping regions (sigmoid outputs): the label value that each writes, later over earlier; None: softmax.
    regions_class_order: tuple[int, ...] | None = None
    patch_size: tuple[int, int, int] = (128, 128, 128)  # voxels
    mirror_axes: tuple[int, ...] = (0, 1, 2)  # of test-time augmentation
    average: str = "logits"  # what tiles, mirrors and models are averaged in: "logits" or "softmax"
    threshold: float = 0.5  # of the foreground probability
    # Thresholds by contrast and voxel size (weights.threshold_table); without a row `threshold`.
    thresholds: tuple[ThresholdRow, ...] = ()
    temperature: float = 1.0  # that logits are divided by, so that probabilities are true (Guo et al. 2017)

    owner: ClassVar[str] = "recipe"

    def _rules(self) -> dict[str, tuple[bool, str]]:
        channels, labels, patch, norms = self.channel_names, self.labels, self.patch_size, self.normalisation
        named = isinstance(channels, tuple) and len(channels) > 0 and all(isinstance(c, str) for c in channels)
        count = len(channels) if named else -1
        values, order = len(labels) if isinstance(labels, Mapping) else 0, self.regions_class_order
        steps = super()._rules()
        norms_valid, norms_expected = steps.pop("normalisation")
        return {
            **steps,
            "normalisation": (norms_valid and len(norms) == count, norms_expected),
            "channel_names": (named, "at least one name"),
            "labels": (
                isinstance(labels, Mapping)
                and 1 < len(labels) <= MAX_LABELS
                and all(isinstance(name, str) and type(value) is int for name, value in labels.items())
                and sorted(labels.values()) == list(range(len(labels))),
                f"names for the values 0, 1, 2, ..., each once, at most {MAX_LABELS}; 0 is the background",
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
                is_three(patch) and all(type(p) is int and 0 < p <= 4096 and p % EXTENT_MULTIPLE == 0 for p in patch),
                f"three multiples of {EXTENT_MULTIPLE} (voxels)",
            ),
            "mirror_axes": (
                isinstance(self.mirror_axes, tuple)
                and all(type(axis) is int and 0 <= axis < 3 for axis in self.mirror_axes)
                and len(set(self.mirror_axes)) == len(self.mirror_axes),
                "some of 0, 1, 2",
            ),
            "average": (self.average in ("logits", "softmax"), '"logits" or "softmax"'),
            "threshold": (is_number(self.threshold) and 0 < self.threshold < 1, "a number between 0 and 1"),
            "thresholds": (
                is_threshold_table(self.thresholds)
                and (not self.thresholds or not isinstance(labels, Mapping) or self.decision_threshold is not None),
                THRESHOLDS_EXPECTED,
            ),
            "temperature": (
                is_number(self.temperature) and 0.01 <= self.temperature <= 100,
                "a number from 0.01 to 100; 1 leaves the logits as they are",
            ),
        }

    @property
    def decision_threshold(self) -> float | None:
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

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """The recipe of `to_dict`'s result; absent fields take their default, unknown ones raise InputError."""
        values = {OLD_NAMES.get(name, name): value for name, value in values.items()}
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
