"""What the files of a prepared case must say before anything else reads them: case.json, zarr.json, splits.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mednext_jax.io.nifti_header import MAX_VOXELS

CHUNK = 32
# The foreground class under which voxels drawn from all that is not to be ignored are stored.
ANNOTATED = 0
# Array -> its axes and type; each foreground array is (n, 3) int32.
ARRAYS = {"image": (4, "float32"), "label": (3, "int16"), "regions": (3, "int16")}
FOREGROUND = (2, "int32")
_SIZES = ("shape", "box_start", "box_shape", "resampled_shape")
_SPACINGS = ("spacing", "resampled_spacing")


def kind_of(name: str) -> tuple[int, str]:
    """Number of axes and type of the array `name` of a case."""
    return ARRAYS.get(name, FOREGROUND)


def array_metadata(shape: Sequence[int], dtype: str) -> dict[str, Any]:
    """The zarr v3 description of an array: one shard of compressed chunks, each with a checksum."""
    spatial = 3 if len(shape) >= 3 else 0
    chunk = [CHUNK] * spatial + list(shape[spatial:])
    shard = [-(-size // length) * length for size, length in zip(shape, chunk, strict=True)]
    itemsize = {"float32": 4, "int32": 4, "int16": 2}[dtype]
    codecs = [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "blosc", "configuration": {"cname": "zstd", "clevel": 3, "shuffle": "shuffle", "typesize": itemsize}},
        {"name": "crc32c"},
    ]
    return {
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
        "codecs": [{"name": "sharding_indexed", "configuration": {"chunk_shape": chunk, "codecs": codecs}}],
        "fill_value": 0,
    }


def chunk_file(axes: int) -> str:
    """The one file of an array's data, from the array's folder."""
    return "c" + "/0" * axes


def array_shape(metadata: Any, name: str) -> tuple[int, ...]:
    """The shape that a parsed zarr.json gives; ValueError unless it describes what `array_metadata` writes."""
    axes, dtype = kind_of(name)
    shape: Any = metadata.get("shape") if isinstance(metadata, dict) else None
    if not _are_sizes(shape, axes) or math.prod(shape) > MAX_VOXELS * 16:
        raise ValueError(f"zarr.json: an array of shape {str(shape)[:100]}")
    if not _holds(metadata, array_metadata(shape, dtype) | {"zarr_format": 3, "node_type": "array"}):
        raise ValueError("zarr.json: an array of another kind")
    return tuple(shape)


def check_record(record: Any, classes: Sequence[int]) -> None:
    """Raise ValueError unless a parsed case.json is one; `classes`: the numbers that its foreground may have."""
    if not isinstance(record, dict):
        raise ValueError("nothing, or another kind of file")
    counts, properties = record.get("foreground"), record.get("properties")
    if not isinstance(counts, dict) or not all(_is_size(count) for count in counts.values()):
        raise ValueError("no counts of foreground voxels")
    unknown = set(counts) - {str(number) for number in (ANNOTATED, *classes)}
    if unknown:
        raise ValueError(f"foreground of classes {', '.join(sorted(unknown))[:100]}, which the data set does not have")
    if not isinstance(properties, dict):
        raise ValueError("no properties")
    for name in _SIZES:
        if not _are_sizes(properties.get(name), 3, lowest=0 if name == "box_start" else 1):
            raise ValueError(f"properties.{name} = {str(properties.get(name))[:100]}")
    for name in _SPACINGS:
        sizes = properties.get(name)
        if not (isinstance(sizes, list) and len(sizes) == 3 and all(_is_number(x) and x > 0 for x in sizes)):
            raise ValueError(f"properties.{name} = {str(sizes)[:100]}")
    ends = [start + size for start, size in zip(properties["box_start"], properties["box_shape"], strict=True)]
    if any(end > whole for end, whole in zip(ends, properties["shape"], strict=True)):
        raise ValueError("properties.box_shape reaches beyond the scan")
    if not _are_sizes(record.get("stored_shape"), 3):
        raise ValueError(f"stored_shape = {str(record.get('stored_shape'))[:100]}")
    affine = record.get("affine")
    rows = affine if isinstance(affine, list) and len(affine) == 4 else []
    if not rows or not all(isinstance(row, list) and len(row) == 4 and all(map(_is_number, row)) for row in rows):
        raise ValueError("affine is no 4 x 4 matrix of numbers")
    _check_arrays(record.get("arrays", {}))


def check_shapes(shapes: Mapping[str, Sequence[int]], record: Mapping[str, Any], channels: int) -> None:
    """Raise ValueError unless the arrays of a case fit one another and its case.json."""
    grid = tuple(record["properties"]["resampled_shape"])
    for name, shape in shapes.items():
        expected: tuple[int, ...] = (*grid, channels) if name == "image" else grid
        if name not in ARRAYS:
            expected = (record["foreground"][name.removeprefix("foreground/")], 3)
            if expected[0] > math.prod(grid):
                raise ValueError(f"{name}: {expected[0]} voxels of a case that has {math.prod(grid)}")
        if tuple(shape) != expected:
            raise ValueError(f"{name}: an array of shape {tuple(shape)}, not {expected}")


def check_splits(folds: Any, cases: Sequence[str]) -> None:
    """Raise ValueError unless `folds` are what `prepare` writes: known cases, none twice in a fold."""
    if not isinstance(folds, list) or not folds:
        raise ValueError("nothing, or another kind of file")
    known = set(cases)
    for number, fold in enumerate(folds):
        parts: list[Any] = [fold.get(part) for part in ("train", "val")] if isinstance(fold, dict) else [None]
        if not all(isinstance(part, list) and all(isinstance(case, str) for case in part) for part in parts):
            raise ValueError(f"fold {number} without lists of cases")
        named = [case for part in parts for case in part]
        unknown = sorted(set(named) - known)
        if unknown:
            raise ValueError(f"fold {number} names {unknown[0][:100]!r}, which the data set does not have")
        if len(set(named)) < len(named):
            raise ValueError(f"fold {number} names a case twice")


def _check_arrays(arrays: Any) -> None:
    """The sizes and hashes; data sets of version 0.1.0 have none."""
    right = isinstance(arrays, dict) and all(
        isinstance(entry, dict)
        and (entry.get("bytes") is None or _is_size(entry["bytes"], 0))
        and isinstance(entry.get("sha256"), str)
        for entry in arrays.values()
    )
    if not right:
        raise ValueError("arrays without sizes and hashes")


def _is_size(value: Any, lowest: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and lowest <= value < 2**53


def _are_sizes(values: Any, count: int, lowest: int = 1) -> bool:
    return isinstance(values, list) and len(values) == count and all(_is_size(value, lowest) for value in values)


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) < 2**53


def _holds(found: Any, expected: Any) -> bool:
    """Whether `found` has all that `expected` has; mappings may have more."""
    if isinstance(expected, dict):
        return isinstance(found, dict) and all(k in found and _holds(found[k], v) for k, v in expected.items())
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(_holds, found, expected))
    return found == expected
