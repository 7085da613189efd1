"""Files and folders that appear whole or not at all: written beside the target, then renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mednext_jax.errors import InputError


@contextlib.contextmanager
def atomic_file(target: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `target` with the same ending; rename it to `target` on success.

    An existing `target` is replaced in one step; on an error it is left as it was and the temporary file goes.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    suffix = "".join(target.suffixes[-2:])
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=suffix, dir=target.parent)
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(target: str | os.PathLike) -> Iterator[Path]:
    """Yield a new temporary folder beside `target`; rename it to `target` on success, remove it on an error.

    Raises InputError at once if `target` exists and is not an empty folder.
    """
    target = Path(target)
    refuse_existing(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_existing(target: str | os.PathLike) -> None:
    """Raise InputError if `target` is a file or a folder with something in it."""
    target = Path(target)
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists() or target.is_symlink():
        raise InputError(
            "The output exists already and is not overwritten.",
            file=target,
            expected="a path that does not exist, or an empty folder",
            found="a folder with files in it" if target.is_dir() else "a file",
            hint="name another output, or remove this one first",
        )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
