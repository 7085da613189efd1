"""Small files below a local folder or a URL (gs://, s3://), through TensorStore's key-value stores."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorstore as ts

from mednext_jax.errors import InputError, WorkError
from mednext_jax.io.json_file import parse_json

# What TensorStore raises for a missing, damaged or unwritable array: its status codes come as these.
STORE_ERRORS = (ValueError, OSError, KeyError, RuntimeError)


class StoredFiles:
    """The files below a local folder or a URL, by their name from there."""

    def __init__(self, path: str | os.PathLike):
        text = os.fspath(path)
        self.local = None if "://" in text else Path(text).absolute()
        self.root = text.rstrip("/") if self.local is None else str(self.local)

    @functools.cached_property
    def _store(self) -> ts.KvStore:
        return ts.KvStore.open(self.spec("")).result()

    def spec(self, name: str) -> str | dict[str, str]:
        """What TensorStore calls the folder `name`; raises InputError for a name that is not UTF-8."""
        path = f"{self.root}/{name}".rstrip("/") + "/"
        if self.local is None:
            return path
        try:  # under another locale than UTF-8 Python has the bytes of a file name, not its letters
            return {"driver": "file", "path": os.fsencode(path).decode("utf-8")}
        except UnicodeDecodeError as error:
            found = f"byte {error.object[error.start]:#x}"
            hint = "rename the folder, or the case's files"
            raise InputError("A name is not UTF-8.", file=path, expected="UTF-8", found=found, hint=hint) from None

    def name(self, name: str) -> str:
        return f"{self.root}/{name}"

    @contextlib.contextmanager
    def changing(self, name: str) -> Iterator[None]:
        """Context in which TensorStore's errors become a WorkError: no space, no permission, something in the way."""
        try:
            yield
        except STORE_ERRORS as error:
            raise WorkError(f"{self.name(name)} cannot be written: {reason(error)}") from error

    def size(self, name: str) -> int | None:
        """The bytes of a file, 0 if there is none; None below a URL, where only its presence is known at this cost."""
        if self.local is None:
            return None
        path = self.local / name
        return path.stat().st_size if path.is_file() else 0

    def read(self, name: str, limit: int) -> bytes | None:
        """The file's bytes, None if there is none; raises InputError beyond `limit` bytes or if it cannot be read."""
        if (self.size(name) or 0) > limit:
            raise InputError("A file is too large.", file=self.name(name), expected=f"at most {limit} bytes")
        try:
            result = self._store.read(os.fsencode(name)).result()
        except STORE_ERRORS as error:
            found = reason(error)
            raise InputError("A place cannot be read.", file=self.name(name), found=found) from error
        return result.value if result.state == "value" else None

    def read_json(self, name: str, limit: int) -> Any:
        """The parsed file; None if it is missing, too large or not JSON."""
        try:
            return parse_json(self.read(name, limit) or b"null", name)
        except InputError:
            return None

    def write(self, name: str, text: str) -> None:
        with self.changing(name):
            self._store.write(os.fsencode(name), text.encode()).result()

    def list(self, prefix: str) -> list[str]:
        keys = self._store.list(_below(prefix)).result()
        start = len(os.fsencode(prefix))  # the prefix as it was given: a name of another locale has other letters here
        return sorted(prefix + os.fsdecode(key[start:]) for key in keys)

    def remove(self, name: str) -> None:
        with self.changing(name):
            self._store.write(os.fsencode(name), None).result()

    def remove_folder(self, prefix: str) -> None:
        if self.local is not None:
            shutil.rmtree(self.local / prefix, ignore_errors=True)
        else:
            self._store.delete_range(_below(prefix)).result()


def reason(error: Exception) -> str:
    """TensorStore's words without its specification of the array."""
    return str(error).split(" [tensorstore_spec=")[0]


def _below(prefix: str) -> ts.KvStore.KeyRange:
    """The names that start with `prefix`, which ends in a slash."""
    start = os.fsencode(prefix)
    return ts.KvStore.KeyRange(start, start[:-1] + bytes([start[-1] + 1]))
