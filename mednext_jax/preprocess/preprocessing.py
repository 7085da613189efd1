"""What is done to every scan of a model or a prepared data set before the network sees it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

from mednext_jax.errors import InputError, Problem
from mednext_jax.preprocess.clean import STEPS
from mednext_jax.preprocess.normalise import INTENSITY_KEYS, SCHEMES, needs_intensities, uses_mask

# Fields as version 0.1.0 spelt them in its files, which are still read.
OLD_NAMES = {"cleaning": "optional_steps"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The steps between a scan and the network's volume; axis order (d, h, w) throughout.

    A model's recipe and a prepared data set each are one with more to say; `preprocessing` is this part of them.
    Raises InputError that names every field that is wrong.
    """

    spacing: tuple[float, float, float] | None = None  # mm; None keeps each scan's own
    orientation: str | None = "RAS"  # None leaves the axes as they are stored (nnU-Net's way)
    optional_steps: tuple[str, ...] = ()  # of preprocess.clean, done before anything else
    crop_to_nonzero: bool = True
    normalisation: tuple[str, ...] = ("zscore",)  # one scheme per channel
    use_mask_for_norm: bool = False  # statistics from, and values only in, the non-zero mask
    # One mapping per channel with INTENSITY_KEYS, from the training set's foreground; only "ct" needs it.
    intensity_properties: tuple[Mapping[str, float], ...] | None = None
    brain_extracted: bool | None = None  # whether the training scans were; None is not recorded

    owner: ClassVar[str] = "preprocessing"  # whose fields these are, in messages

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # JSON holds tuples as lists
            if isinstance(value := getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(value))
        problems = [
            Problem(
                f"The {self.owner}'s {name} is not valid.", expected=expected, found=repr(getattr(self, name))[:200]
            )
            for name, (valid, expected) in self._rules().items()
            if not valid
        ]
        if problems:
            raise InputError.of(problems)

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing alone, without what a recipe or a data set adds."""
        return Preprocessing(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Preprocessing)})

    @property
    def needs_filled_mask(self) -> bool:
        """Whether a channel is normalised inside the non-zero mask, whose holes then have to be filled."""
        return self.use_mask_for_norm and uses_mask(self.normalisation)

    def to_dict(self) -> dict[str, Any]:
        """Every field as plain JSON values."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    def _rules(self) -> dict[str, tuple[bool, str]]:
        """Field -> whether it is valid, and what it should be."""
        spacing = self.spacing
        norms = self.normalisation if isinstance(self.normalisation, tuple) else ()
        known = len(norms) > 0 and all(isinstance(n, str) and n in SCHEMES for n in norms)
        return {
            "spacing": (
                spacing is None or (is_three(spacing) and all(is_number(s) and 0 < s < 1000 for s in spacing)),
                "three numbers (mm), or null",
            ),
            "orientation": (self.orientation in ("RAS", None), '"RAS" or null'),
            "optional_steps": (
                isinstance(self.optional_steps, tuple)
                and self.optional_steps == tuple(step for step in STEPS if step in self.optional_steps),
                f"some of {', '.join(STEPS)}, in this order",
            ),
            "crop_to_nonzero": (isinstance(self.crop_to_nonzero, bool), "true or false"),
            "normalisation": (known, f"one of {', '.join(SCHEMES)} for each channel"),
            "use_mask_for_norm": (isinstance(self.use_mask_for_norm, bool), "true or false"),
            "intensity_properties": (
                _intensities(self.intensity_properties, len(norms), required=known and needs_intensities(norms)),
                f"for each channel {', '.join(INTENSITY_KEYS)}; null if no channel is normalised as ct",
            ),
            "brain_extracted": (
                self.brain_extracted is None or isinstance(self.brain_extracted, bool),
                "true, false or null",
            ),
        }


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return dict(value) if isinstance(value, Mapping) else value


def is_three(value: Any) -> bool:
    """Whether a field holds one value for each axis."""
    return isinstance(value, tuple) and len(value) == 3


def is_number(value: Any) -> bool:
    """Whether a field holds a finite number."""
    return type(value) in (int, float) and math.isfinite(value)


def _intensities(value: Any, channels: int, *, required: bool) -> bool:
    if value is None:
        return not required
    return (
        isinstance(value, tuple)
        and len(value) == channels
        and all(isinstance(c, Mapping) and all(is_number(c.get(key)) for key in INTENSITY_KEYS) for c in value)
    )
