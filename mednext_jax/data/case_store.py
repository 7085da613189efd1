"""The prepared data set on disk or in a bucket: zarr v3 arrays, read crop by crop through TensorStore.

    PREPARED/prepared.json, splits.json              written last: what is there is complete
    PREPARED/unfinished.json                         instead of it while `prepare` works
    PREPARED/cases/ID/image, label                   zarr v3 (d, h, w, c) float32 and (d, h, w) int16
    PREPARED/cases/ID/regions                        (d, h, w) int16, for data sets with region maps
    PREPARED/cases/ID/foreground/1, 2, ...           zarr v3 (n, 3): voxels (d, h, w) of each class
    PREPARED/cases/ID/case.json                      written after the arrays

Each array is one file (a shard) of 32^3 chunks with checksums, so a crop reads what it touches and a cohort does not
cost a million files. case.json holds the size and the hash of each. Paths may be local or URLs that TensorStore knows
(gs://, s3://). What is there is checked when a data set is opened, without reading its voxels; chunks and whole arrays
when they are read.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorstore as ts

from mednext_jax.data.prepared import FORMAT, PreparedMeta
from mednext_jax.data.stored_case import (
    ANNOTATED,
    array_metadata,
    array_shape,
    check_record,
    check_shapes,
    check_splits,
    chunk_file,
    kind_of,
)
from mednext_jax.data.stored_files import STORE_ERRORS, StoredFiles, reason
from mednext_jax.errors import InputError, Problem, WorkError
from mednext_jax.io.geometry import voxel_volume
from mednext_jax.preprocess.trip import Properties

UNFINISHED = "unfinished.json"
# Bytes of the description or the splits of a hundred thousand cases, of a case.json and of a zarr.json.
DESCRIPTION_LIMIT, RECORD_LIMIT, ARRAY_LIMIT = 2**28, 2**20, 2**16
OPENING_THREADS = 16  # for the small files of all cases, which in a bucket are far away


class CaseStore:
    """A complete prepared data set, for reading. Thread-safe, and cheap to pickle: handles are opened on first use."""

    def __init__(self, path: str, meta: PreparedMeta, splits: list[dict[str, list[str]]]):
        self.path = path
        self.meta = meta
        self.splits = splits
        self._arrays: dict[str, ts.TensorStore] = {}
        self._foreground: dict[str, dict[int, np.ndarray]] = {}
        self._records: dict[str, dict[str, Any]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}

    @classmethod
    def open(cls, path: str | os.PathLike) -> CaseStore:
        """Open a prepared data set and check all of it but the voxels.

        Raises InputError, with all problems together, if it is missing, incomplete, damaged or of another format.
        """
        files = StoredFiles(path)
        text = files.read("prepared.json", DESCRIPTION_LIMIT)
        if text is None:
            raise InputError(
                "There is no complete prepared data set here.",
                file=files.name("prepared.json"),
                expected="the file that `mednext-jax prepare` writes last",
                found="nothing",
                hint="run `mednext-jax prepare`; it goes on where it stopped",
            )
        meta = PreparedMeta.from_json(text, files.name("prepared.json"))
        strange = [case for case in meta.cases if not _is_name(case)]
        if strange or not meta.cases:
            raise InputError("The prepared data set has no proper names of cases.", file=path, found=strange[:3])
        splits = files.read_json("splits.json", DESCRIPTION_LIMIT)
        try:
            check_splits(splits, meta.cases)
        except ValueError as error:
            raise InputError(
                "The prepared data set has no splits.",
                file=files.name("splits.json"),
                expected='a list of {"train": [...], "val": [...]}',
                found=error,
                hint="run `mednext-jax prepare` again",
            ) from error
        store = cls(os.fspath(path), meta, splits)
        store._check_cases()
        return store

    @property
    def ids(self) -> tuple[str, ...]:
        """The cases, sorted."""
        return self.meta.cases

    def shape(self, case: str) -> tuple[int, int, int]:
        """The shape (d, h, w) of a case."""
        self.record(case)
        d, h, w = self._shapes[f"cases/{case}/label"]
        return d, h, w

    def record(self, case: str) -> dict[str, Any]:
        """The `case.json` of a case: `properties` (see preprocess.trip.Properties), affine, sources."""
        if case not in self._records:
            self._records[case] = self._check_case(case)
        return self._records[case]

    def foreground(self, case: str) -> dict[int, np.ndarray]:
        """Class number -> voxels (n, 3) int32 (d, h, w) of that class; classes absent from the case are left out."""
        if case not in self._foreground:
            counts = self.record(case)["foreground"]
            self._foreground[case] = {int(name): self._voxels(case, name) for name in counts if int(name) != ANNOTATED}
        return self._foreground[case]

    def annotated(self, case: str) -> np.ndarray | None:
        """Voxels (n, 3) drawn from all that is not to be ignored, for data sets with an ignore label; else None."""
        if str(ANNOTATED) not in self.record(case)["foreground"]:
            return None
        return self._voxels(case, str(ANNOTATED))

    def crop(self, case: str, start: Sequence[int], size: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """The box of `size` (d, h, w) at `start`, which may be negative.

        Returns image float32 (d, h, w, c) and label int16 (d, h, w); beyond the case they are 0 and -1.
        Raises InputError if the stored data is damaged.
        """
        image, label = self._array(case, "image"), self._array(case, "label")
        inside, outside = [], []
        for first, length, whole in zip(start, size, label.shape, strict=True):
            low, high = min(max(first, 0), whole), max(min(first + length, whole), 0)
            inside.append(slice(low, max(high, low)))
            outside.append(slice(low - first, max(high, low) - first))
        image_crop = np.zeros((*size, image.shape[3]), np.float32)
        label_crop = np.full(tuple(size), -1, np.int16)
        if all(part.stop > part.start for part in inside):
            futures = image[tuple(inside)].read(), label[tuple(inside)].read()
            try:
                image_crop[tuple(outside)], label_crop[tuple(outside)] = (future.result() for future in futures)
            except STORE_ERRORS as error:
                raise self._broken(case, "image, label", reason(error)) from error
        return image_crop, label_crop

    def read(self, case: str) -> tuple[np.ndarray, np.ndarray]:
        """A whole case: image float32 (d, h, w, c) and label int16 (d, h, w)."""
        image, label = self.crop(case, (0, 0, 0), self.shape(case))
        self._check_hash(case, "image", image)
        self._check_hash(case, "label", label)
        return image, label

    def label(self, case: str) -> np.ndarray:
        """The label int16 (d, h, w) of a whole case, without its image."""
        return self._read(case, "label")

    def voxel_volume(self, case: str) -> float:
        """mm3 of a stored voxel: the stored grid is as sheared as the scan's."""
        record = self.record(case)
        properties = Properties.from_dict(record["properties"])
        larger = np.prod(properties.resampled_spacing) / np.prod(properties.spacing)
        return voxel_volume(np.asarray(record["affine"])) * float(larger)

    def regions(self, case: str) -> np.ndarray | None:
        """The region map (d, h, w) int16 of a case, for data sets with region maps (`meta.regions`); else None."""
        return self._read(case, "regions") if self.meta.regions else None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "meta": self.meta, "splits": self.splits}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _check_cases(self) -> None:
        """Check every case; raises InputError with the problems of all."""
        problems: list[Problem] = []
        with concurrent.futures.ThreadPoolExecutor(OPENING_THREADS) as pool:
            for error in pool.map(self._problem, self.ids):
                problems += error.problems if error else []
        if problems:
            raise InputError.of(problems)

    def _problem(self, case: str) -> InputError | None:
        try:
            self.record(case)
            return None
        except InputError as error:
            return error

    def _check_case(self, case: str) -> dict[str, Any]:
        """The `case.json` of a case whose small files and file sizes are as `prepare` wrote them."""
        if case not in self.meta.cases:
            raise InputError("The case is not in the prepared data set.", file=self.path, found=case)
        files, folder, name = StoredFiles(self.path), f"cases/{case}", "case.json"
        try:
            record = files.read_json(f"{folder}/case.json", RECORD_LIMIT)
            check_record(record, tuple(self.meta.classes))
            there = set(files.list(f"{folder}/"))
            names = ["image", "label", *(["regions"] if self.meta.regions else [])]
            names += [f"foreground/{number}" for number in record["foreground"]]
            shapes = {}
            for name in names:
                metadata = files.read_json(f"{folder}/{name}/zarr.json", ARRAY_LIMIT)
                shapes[name] = array_shape(metadata, name)
                data = f"{folder}/{name}/{chunk_file(len(shapes[name]))}"
                _check_data(name, record, data in there, files.size(data))
            name = "case.json"
            check_shapes(shapes, record, len(self.meta.channel_names))
        except (InputError, ValueError) as error:
            found = error.problems[0].found or error.problems[0].what if isinstance(error, InputError) else str(error)
            raise self._broken(case, name, found) from error
        self._shapes |= {f"{folder}/{name}": shape for name, shape in shapes.items()}
        return record

    def _array(self, case: str, name: str) -> ts.TensorStore:
        key = f"cases/{case}/{name}"
        if key not in self._arrays:
            self.record(case)
            # The description is made anew from the shape: TensorStore reads none that was not judged.
            metadata = array_metadata(self._shapes[key], kind_of(name)[1])
            spec = {"driver": "zarr3", "kvstore": StoredFiles(self.path).spec(key), "metadata": metadata}
            try:
                self._arrays[key] = ts.open(spec, open=True, read=True, assume_metadata=True).result()
            except STORE_ERRORS as error:
                raise self._broken(case, name, reason(error)) from error
        return self._arrays[key]

    def _read(self, case: str, name: str) -> np.ndarray:
        array = self._array(case, name)
        try:
            values = array.read().result()
        except STORE_ERRORS as error:
            raise self._broken(case, name, reason(error)) from error
        self._check_hash(case, name, values)
        return values

    def _voxels(self, case: str, number: str) -> np.ndarray:
        """The stored voxels (n, 3) int32 of a class."""
        name = f"foreground/{number}"
        voxels = self._read(case, name)
        if ((voxels < 0) | (voxels >= self.shape(case))).any():
            raise self._broken(case, name, "voxels outside of the scan")
        return voxels

    def _check_hash(self, case: str, name: str, values: np.ndarray) -> None:
        entry = self.record(case).get("arrays", {}).get(name)
        if entry is not None and entry["sha256"] != _sha256(values):
            raise self._broken(case, name, "other values than were written (sha256 differs)")

    def _broken(self, case: str, name: str, found: str) -> InputError:
        return InputError(
            f"A stored case cannot be read: {case}.",
            file=StoredFiles(self.path).name(f"cases/{case}/{name}"),
            expected="what `mednext-jax prepare` wrote",
            found=found,
            hint="remove the folder of this case and run `mednext-jax prepare` again; it redoes what is missing",
        )


class CaseWriter:
    """Writes a prepared data set; `finish` makes it visible to `CaseStore.open`."""

    def __init__(self, path: str | os.PathLike):
        self._files = StoredFiles(path)

    @property
    def started(self) -> bool:
        """Whether the place holds a prepared data set, complete or not."""
        return any(self._files.read(name, DESCRIPTION_LIMIT) is not None for name in ("prepared.json", UNFINISHED))

    def keys(self) -> dict[str, str]:
        """The cases that are there already -> the key they were written with; "" for an incomplete one."""
        found: dict[str, str] = {}
        for name in self._files.list("cases/"):
            case, _, rest = name.removeprefix("cases/").partition("/")
            found.setdefault(case, "")
            if rest == "case.json":
                record = self._files.read_json(name, RECORD_LIMIT)
                key = record.get("key") if isinstance(record, dict) else None
                found[case] = key if isinstance(key, str) else ""
        return found

    def meta(self) -> PreparedMeta | None:
        """The description of a data set that is complete, None if there is none."""
        text = self._files.read("prepared.json", DESCRIPTION_LIMIT)
        return None if text is None else PreparedMeta.from_json(text, self._files.name("prepared.json"))

    def splits(self) -> Any:
        """The splits that are there already, None if there are none."""
        return self._files.read_json("splits.json", DESCRIPTION_LIMIT)

    def begin(self) -> None:
        """Mark the place as being worked on: until `finish`, readers see no data set."""
        self._files.write(UNFINISHED, json.dumps({"format": FORMAT}))
        self._files.remove("prepared.json")

    def write_case(
        self,
        case: str,
        image: np.ndarray,
        label: np.ndarray,
        foreground: Mapping[int, np.ndarray],
        record: Mapping[str, Any],
        regions: np.ndarray | None = None,
    ) -> None:
        """Write one case, replacing what is there; readers find all of it or none. Raises WorkError (no space).

        `image` float32 (d, h, w, c), `label` int16 (d, h, w), `foreground` class number (or `ANNOTATED`) -> (n, 3),
        `regions` integers (d, h, w); `record` holds at least `key`, which `keys` gives back.
        """
        self.remove_case(case)
        folder = f"cases/{case}"
        arrays: dict[str, np.ndarray] = {"image": image.astype(np.float32, copy=False)}
        arrays["label"] = label.astype(np.int16, copy=False)
        if regions is not None:
            arrays["regions"] = regions.astype(np.int16, copy=False)
        arrays |= {f"foreground/{k}": v.astype(np.int32) for k, v in foreground.items() if len(v)}
        counts = {str(k): len(v) for k, v in foreground.items() if len(v)}
        written: dict[str, Any] = {}
        try:
            for name, array in arrays.items():
                self._write_array(f"{folder}/{name}", array)
                data = f"{folder}/{name}/{chunk_file(array.ndim)}"
                there = data in self._files.list(f"{folder}/{name}/")  # zeros alone have no file
                written[name] = {"bytes": self._files.size(data) if there else 0, "sha256": _sha256(array)}
            whole = {**record, "foreground": counts, "arrays": written}
            self._files.write(f"{folder}/case.json", json.dumps(whole, indent=1))
        except WorkError:
            self.remove_case(case)
            raise

    def remove_case(self, case: str) -> None:
        """Remove a case, complete or not."""
        self._files.remove(f"cases/{case}/case.json")
        self._files.remove_folder(f"cases/{case}/")

    def finish(self, meta: PreparedMeta, splits: Sequence[Mapping[str, Sequence[str]]]) -> None:
        """Write the splits, then the description that makes the data set complete."""
        self._files.write("splits.json", json.dumps(list(splits), indent=1))
        self._files.write("prepared.json", meta.to_json())
        self._files.remove(UNFINISHED)

    def _write_array(self, name: str, array: np.ndarray) -> None:
        metadata = array_metadata(array.shape, array.dtype.name)
        spec = {"driver": "zarr3", "kvstore": self._files.spec(name), "metadata": metadata}
        with self._files.changing(name):
            ts.open(spec, create=True, delete_existing=True).result().write(array).result()


def _check_data(name: str, record: Mapping[str, Any], is_there: bool, size: int | None) -> None:
    """Raise ValueError unless an array's file is there as it was written; TensorStore reads a missing one as zeros."""
    if "arrays" in record:
        if name not in record["arrays"]:
            raise ValueError("case.json has no hash of it")
        written = record["arrays"][name]["bytes"]
        empty = written == 0
    else:  # of version 0.1.0, which did not write down that a label of zeros alone has no file
        written, empty = None, name == "label" and set(record["foreground"]) <= {str(ANNOTATED)}
    if not is_there and not empty:
        raise ValueError("the file with its values is missing")
    if None not in (written, size) and written != size:
        raise ValueError(f"its file has {size} bytes, not {written}")


def _is_name(case: Any) -> bool:
    return isinstance(case, str) and case not in ("", ".", "..") and not set(case) & set("/\\\0")


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
