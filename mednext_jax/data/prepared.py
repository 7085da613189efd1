"""What a prepared data set says about itself: the content of its `prepared.json`."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, ClassVar

from mednext_jax.errors import InputError
from mednext_jax.io.json_file import parse_json
from mednext_jax.io.raw_dataset import LabelValue
from mednext_jax.preprocess.preprocessing import OLD_NAMES, Preprocessing

FORMAT = "mednext-jax-prepared"
FORMAT_VERSION = 1

# What every prepared.json has, in the order of its text, of which data sets are hashed. So old names stay, and fields
# that came later are written behind it, only where they differ from their default: older files keep their hash.
_ORDER = (
    *("name", "channel_names", "labels", "ignore_label", "regions_class_order"),
    *("spacing", "normalisation", "use_mask_for_norm", "intensity_properties"),
    *("cases", "subjects", "sources", "settings", "versions", "regions", "cleaning"),
)
_NAMES = {stored: OLD_NAMES.get(stored, stored) for stored in _ORDER}  # in the text -> of the field
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Preprocessing)}
_STEPS = set(_DEFAULTS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedMeta(Preprocessing):
    """A prepared data set: what its volumes hold, how they were made, and from which files."""

    name: str
    channel_names: tuple[str, ...]
    labels: dict[str, LabelValue]  # name -> value, background 0 included, the ignore label not
    ignore_label: int | None
    regions_class_order: tuple[int, ...] | None  # the label written for each region, for region-based data sets
    cases: tuple[str, ...]
    subjects: dict[str, str]  # case -> subject
    sources: dict[str, dict[str, str]]  # case -> file -> sha256
    settings: dict[str, Any]  # what `prepare` was asked for
    versions: dict[str, str]
    regions: dict[str, int] = dataclasses.field(default_factory=dict)  # name -> value in the region maps

    owner: ClassVar[str] = "prepared data set"

    @property
    def classes(self) -> dict[int, tuple[int, ...]]:
        """Foreground class number 1, 2, ... -> its label values; for plain labels the number is the value."""
        foreground = [value for value in self.labels.values() if value not in (0, (0,))]
        if any(isinstance(value, tuple) for value in foreground):
            return {k: v if isinstance(v, tuple) else (v,) for k, v in enumerate(foreground, 1)}
        return {int(value): (int(value),) for value in sorted(foreground)}  # type: ignore[arg-type]

    def to_json(self) -> str:
        """The text of `prepared.json`."""
        values = dataclasses.asdict(self)
        later = [name for name in values if name not in _NAMES.values()]
        written = {stored: values[name] for stored, name in _NAMES.items()}
        written |= {name: values[name] for name in later if values[name] != _DEFAULTS[name]}
        return json.dumps({"format": FORMAT, "format_version": FORMAT_VERSION, **written}, indent=1)

    @classmethod
    def from_json(cls, text: bytes, file: str) -> PreparedMeta:
        """The inverse of `to_json`; raises InputError for anything else."""
        values = parse_json(text, file)
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise _unreadable(file, "another kind of file")
        if values.get("format_version") != FORMAT_VERSION:
            raise InputError(
                "The prepared data set was written by another version.",
                file=file,
                expected=f"format version {FORMAT_VERSION}",
                found=values.get("format_version"),
                hint="run `mednext-jax prepare` again into a new folder",
            )
        names = {field.name for field in dataclasses.fields(cls)} - {*_NAMES.values()} | {*_ORDER}
        given = set(values) - {"format", "format_version"}
        missing, unknown = sorted({*_ORDER} - given), sorted(given - names)
        if missing or unknown:
            raise _unreadable(file, f"fields missing: {missing or 'none'}, unknown: {unknown or 'none'}")
        try:
            return cls(
                **{_NAMES.get(name, name): values[name] for name in given if _NAMES.get(name, name) in _STEPS},
                name=str(values["name"]),
                channel_names=tuple(values["channel_names"]),
                labels={k: tuple(v) if isinstance(v, list) else int(v) for k, v in values["labels"].items()},
                ignore_label=values["ignore_label"],
                regions_class_order=_maybe_tuple(values["regions_class_order"]),
                cases=tuple(values["cases"]),
                subjects=dict(values["subjects"]),
                sources=dict(values["sources"]),
                settings=dict(values["settings"]),
                versions=dict(values["versions"]),
                regions={str(name): int(value) for name, value in values["regions"].items()},
            )
        except (TypeError, ValueError, AttributeError) as error:
            raise _unreadable(file, str(error)) from error


def _maybe_tuple(values: list | None) -> tuple | None:
    return None if values is None else tuple(values)


def _unreadable(file: str, found: str) -> InputError:
    return InputError(
        "The prepared data set does not describe itself.",
        file=file,
        expected="the prepared.json that `mednext-jax prepare` writes",
        found=found,
        hint="run `mednext-jax prepare` again",
    )
