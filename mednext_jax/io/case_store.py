"""The prepared data set on disk or in a bucket: zarr v3 arrays, read crop by crop through TensorStore.

    PREPARED/prepared.json, splits.json              written last: what is there is complete
    PREPARED/unfinished.json                         instead of it while `prepare` works
    PREPARED/cases/ID/image, label                   zarr v3 (d, h, w, c) float32 and (d, h, w) int16
    PREPARED/cases/ID/regions                        (d, h, w) int16, for data sets with region maps
    PREPARED/cases/ID/foreground/1, 2, ...           zarr v3 (n, 3): voxels (d, h, w) of each class
    PREPARED/cases/ID/case.json                      written after the arrays

Each array is one file (a shard) of 32^3 chunks with checksums, so a crop reads what it touches and a cohort does not
cost a million files. Paths may be local or URLs that TensorStore knows (gs://, s3://).
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from mednext_jax.errors import InputError, WorkError
from mednext_jax.io.json_file import parse_json
from mednext_jax.io.nifti_header import MAX_VOXELS
from mednext_jax.io.prepared import FORMAT, PreparedMeta

CHUNK = 32
# The foreground class under which voxels drawn from all that is not to be ignored are stored.
ANNOTATED = 0
UNFINISHED = "unfinished.json"

# What TensorStore raises for a missing, damaged or unwritable array: its status codes come as these.
STORE_ERRORS = (ValueError, OSError, KeyError, RuntimeError)


class CaseStore:
    """A complete prepared data set, for reading. Thread-safe, and cheap to pickle: handles are opened on first use."""

    def __init__(self, path: str, meta: PreparedMeta, splits: list[dict[str, list[str]]]):
        self.path = path
        self.meta = meta
        self.splits = splits
        self._arrays: dict[str, ts.TensorStore] = {}
        self._foreground: dict[str, dict[int, np.ndarray]] = {}
        self._records: dict[str, dict[str, Any]] = {}

    @classmethod
    def open(cls, path: str | os.PathLike) -> CaseStore:
        """Open a prepared data set; raises InputError if it is missing, incomplete or of another format."""
        files = _Files(path)
        text = files.read("prepared.json")
        if text is None:
            raise InputError(
                "There is no complete prepared data set here.",
                file=files.name("prepared.json"),
                expected="the file that `mednext-jax prepare` writes last",
                found="nothing",
                hint="run `mednext-jax prepare`; it goes on where it stopped",
            )
        meta = PreparedMeta.from_json(text, files.name("prepared.json"))
        splits = files.read_json("splits.json")
        if not isinstance(splits, list):
            raise InputError(
                "The prepared data set has no splits.",
                file=files.name("splits.json"),
                expected='a list of {"train": [...], "val": [...]}',
                found="nothing or another kind of file",
                hint="run `mednext-jax prepare` again",
            )
        return cls(os.fspath(path), meta, splits)

    @property
    def ids(self) -> tuple[str, ...]:
        """The cases, sorted."""
        return self.meta.cases

    def shape(self, case: str) -> tuple[int, int, int]:
        """The shape (d, h, w) of a case."""
        d, h, w = self._array(case, "label", 3).shape
        return d, h, w

    def record(self, case: str) -> dict[str, Any]:
        """The `case.json` of a case: `properties` (see preprocess.trip.Properties), affine, sources."""
        if case not in self._records:
            record = _Files(self.path).read_json(f"cases/{case}/case.json")
            if not isinstance(record, dict) or not isinstance(record.get("foreground"), dict):
                raise self._broken(case, "case.json", "nothing, or another kind of file")
            self._records[case] = record
        return self._records[case]

    def foreground(self, case: str) -> dict[int, np.ndarray]:
        """Class number -> voxels (n, 3) int32 (d, h, w) of that class; classes absent from the case are left out."""
        if case not in self._foreground:
            counts = self.record(case)["foreground"]
            self._foreground[case] = {
                int(name): self._read(case, f"foreground/{name}", 2) for name in counts if int(name) != ANNOTATED
            }
        return self._foreground[case]

    def annotated(self, case: str) -> np.ndarray | None:
        """Voxels (n, 3) drawn from all that is not to be ignored, for data sets with an ignore label; else None."""
        if str(ANNOTATED) not in self.record(case)["foreground"]:
            return None
        return self._read(case, f"foreground/{ANNOTATED}", 2)

    def crop(self, case: str, start: Sequence[int], size: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """The box of `size` (d, h, w) at `start`, which may be negative.

        Returns image float32 (d, h, w, c) and label int16 (d, h, w); beyond the case they are 0 and -1.
        Raises InputError if the stored data is damaged.
        """
        image, label = self._array(case, "image", 4), self._array(case, "label", 3)
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
                raise self._broken(case, "image, label", _reason(error)) from error
        return image_crop, label_crop

    def read(self, case: str) -> tuple[np.ndarray, np.ndarray]:
        """A whole case: image float32 (d, h, w, c) and label int16 (d, h, w)."""
        return self.crop(case, (0, 0, 0), self.shape(case))

    def regions(self, case: str) -> np.ndarray | None:
        """The region map (d, h, w) int16 of a case, for data sets with region maps (`meta.regions`); else None."""
        return self._read(case, "regions", 3) if self.meta.regions else None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "meta": self.meta, "splits": self.splits}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _array(self, case: str, name: str, axes: int) -> ts.TensorStore:
        key = f"cases/{case}/{name}"
        if key not in self._arrays:
            if case not in self.meta.cases:
                raise InputError("The case is not in the prepared data set.", file=self.path, found=case)
            try:
                array = ts.open({"driver": "zarr3", "kvstore": _Files(self.path).spec(key)}, read=True).result()
            except STORE_ERRORS as error:
                raise self._broken(case, name, _reason(error)) from error
            if array.rank != axes or array.size > MAX_VOXELS * 16:
                raise self._broken(case, name, f"an array of shape {array.shape}")
            self._arrays[key] = array
        return self._arrays[key]

    def _read(self, case: str, name: str, axes: int) -> np.ndarray:
        array = self._array(case, name, axes)
        try:
            return array.read().result()
        except STORE_ERRORS as error:
            raise self._broken(case, name, _reason(error)) from error

    def _broken(self, case: str, name: str, found: str) -> InputError:
        return InputError(
            f"A stored case cannot be read: {case}.",
            file=_Files(self.path).name(f"cases/{case}/{name}"),
            expected="what `mednext-jax prepare` wrote",
            found=found,
            hint="remove the folder of this case and run `mednext-jax prepare` again; it redoes what is missing",
        )


class CaseWriter:
    """Writes a prepared data set; `finish` makes it visible to `CaseStore.open`."""

    def __init__(self, path: str | os.PathLike):
        self._files = _Files(path)

    @property
    def started(self) -> bool:
        """Whether the place holds a prepared data set, complete or not."""
        return any(self._files.read(name) is not None for name in ("prepared.json", UNFINISHED))

    def keys(self) -> dict[str, str]:
        """The cases that are there already -> the key they were written with; "" for an incomplete one."""
        found: dict[str, str] = {}
        for name in self._files.list("cases/"):
            case, _, rest = name.removeprefix("cases/").partition("/")
            found.setdefault(case, "")
            if rest == "case.json":
                record = self._files.read_json(name)
                found[case] = record.get("key", "") if isinstance(record, dict) else ""
        return found

    def meta(self) -> PreparedMeta | None:
        """The description of a data set that is complete, None if there is none."""
        text = self._files.read("prepared.json")
        return None if text is None else PreparedMeta.from_json(text, self._files.name("prepared.json"))

    def splits(self) -> Any:
        """The splits that are there already, None if there are none."""
        return self._files.read_json("splits.json")

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
        try:
            for name, array in arrays.items():
                self._write_array(f"{folder}/{name}", array)
            self._files.write(f"{folder}/case.json", json.dumps({**record, "foreground": counts}, indent=1))
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
        spatial = 3 if array.ndim >= 3 else 0
        chunk = [CHUNK] * spatial + list(array.shape[spatial:])
        shard = [-(-size // length) * length for size, length in zip(array.shape, chunk, strict=True)]
        blosc = {"cname": "zstd", "clevel": 3, "shuffle": "shuffle", "typesize": array.itemsize}
        codecs = [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "blosc", "configuration": blosc},
            {"name": "crc32c"},
        ]
        metadata = {
            "shape": list(array.shape),
            "data_type": array.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
            "codecs": [
                {"name": "sharding_indexed", "configuration": {"chunk_shape": chunk, "codecs": codecs}},
            ],
            "fill_value": 0,
        }
        spec = {"driver": "zarr3", "kvstore": self._files.spec(name), "metadata": metadata}
        with self._files.changing(name):
            ts.open(spec, create=True, delete_existing=True).result().write(array).result()


class _Files:
    """The files below a local folder or a URL, by their name from there."""

    def __init__(self, path: str | os.PathLike):
        text = os.fspath(path)
        self.local = None if "://" in text else Path(text).absolute()
        self.root = text.rstrip("/") if self.local is None else str(self.local)

    @functools.cached_property
    def _store(self) -> ts.KvStore:
        return ts.KvStore.open(self.spec("")).result()

    def spec(self, name: str) -> str | dict[str, str]:
        path = f"{self.root}/{name}".rstrip("/") + "/"
        return path if self.local is None else {"driver": "file", "path": path}

    def name(self, name: str) -> str:
        return f"{self.root}/{name}"

    @contextlib.contextmanager
    def changing(self, name: str) -> Iterator[None]:
        """What TensorStore raises becomes a WorkError: no space, no permission, something in the way."""
        try:
            yield
        except STORE_ERRORS as error:
            raise WorkError(f"{self.name(name)} cannot be written: {_reason(error)}") from error

    def read(self, name: str) -> bytes | None:
        try:
            result = self._store.read(name).result()
        except STORE_ERRORS as error:
            found = _reason(error)
            raise InputError("A place cannot be read.", file=self.name(name), found=found) from error
        return result.value if result.state == "value" else None

    def read_json(self, name: str) -> Any:
        """The parsed file; None if it is missing or not JSON."""
        try:
            return parse_json(self.read(name) or b"null", name)
        except InputError:
            return None

    def write(self, name: str, text: str) -> None:
        with self.changing(name):
            self._store.write(name, text.encode()).result()

    def list(self, prefix: str) -> list[str]:
        keys = self._store.list(ts.KvStore.KeyRange(prefix, _after(prefix))).result()
        return sorted(key.decode() for key in keys)

    def remove(self, name: str) -> None:
        with self.changing(name):
            self._store.write(name, None).result()

    def remove_folder(self, prefix: str) -> None:
        if self.local is not None:
            shutil.rmtree(self.local / prefix, ignore_errors=True)
        else:
            self._store.delete_range(ts.KvStore.KeyRange(prefix, _after(prefix))).result()


def _reason(error: Exception) -> str:
    """TensorStore's words without its specification of the array."""
    return str(error).split(" [tensorstore_spec=")[0]


def _after(prefix: str) -> str:
    """The first name after all that start with `prefix`, which ends in a slash."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)
