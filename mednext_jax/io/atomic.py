"""Files and folders that appear whole or not at all: written beside the target, then renamed.

A process that is killed leaves what it was writing under a hidden temporary name. The next writer into that folder
clears it. What a live process writes is locked, and the kernel lets go of the lock however the process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import platform
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from mednext_jax.errors import InputError

PREFIX = ".mednext-jax-"
# Locks of another machine may not be seen from here; after this time without a change nobody is writing any more.
FORGOTTEN = 7 * 24 * 3600.0


@contextlib.contextmanager
def atomic_file(target: str | os.PathLike, *, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `target` with the same ending; rename it to `target` on success.

    An existing `target` is replaced in one step, or without `replace` refused by InputError, also one that another
    process made in the meantime; on an error it is left as it was and the temporary file goes.
    The file gets the permissions of a new one (the process's umask, the folder's default ACL).
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _refuse_long(target)
    clear_stale(target.parent)
    ending = "".join(target.suffixes[-2:])
    name, lock = _new(target.parent, ending if len(ending) <= 16 else "", folder=False)
    try:
        yield name
        if replace:
            os.replace(name, target)
        else:
            _place_new(name, target)
    finally:
        name.unlink(missing_ok=True)
        os.close(lock)


@contextlib.contextmanager
def atomic_directory(target: str | os.PathLike) -> Iterator[Path]:
    """Yield a new temporary folder beside `target`; rename it to `target` on success, remove it on an error.

    Raises InputError at once if `target` exists and is not an empty folder, and at the end if it has come to be one.
    """
    target = Path(target)
    refuse_existing(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _refuse_long(target)
    clear_stale(target.parent)
    temporary, lock = _new(target.parent, "", folder=True)
    try:
        yield temporary
        try:
            os.replace(temporary, target)
        except OSError:
            refuse_existing(target)  # another process was faster
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)


def replace_text(path: Path, text: str) -> None:
    """Give the file `path` this content, whole or not at all; names that are not UTF-8 keep their bytes."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")


def refuse_existing(target: str | os.PathLike, *, hidden: bool = True) -> None:
    """Raise InputError if `target` is a file or a folder with something in it; stale temporary files are cleared.

    `hidden`: whether hidden names count, such as lock files.
    """
    target = Path(target)
    if target.is_dir():
        clear_stale(target)
        if not any(hidden or not path.name.startswith(".") for path in target.iterdir()):
            return
    if target.exists() or target.is_symlink():
        raise InputError(
            "The output exists already and is not overwritten.",
            file=target,
            expected="a path that does not exist, or an empty folder",
            found="a folder with files in it" if target.is_dir() else "a file",
            hint="name another output, or remove this one first",
        )


def _place_new(file: Path, target: Path) -> None:
    """Give `file` the name `target`; raises InputError if that is taken. A link takes no other file's place."""
    try:
        os.link(file, target)
    except OSError:
        refuse_existing(target)
        os.replace(file, target)  # a file system without links


def clear_stale(folder: str | os.PathLike) -> None:
    """Remove the temporary files and folders in `folder` whose writers were killed; those of live ones stay."""
    with contextlib.suppress(OSError), os.scandir(Path(folder)) as entries:
        for entry in entries:
            if entry.name.startswith(PREFIX):
                with contextlib.suppress(OSError):  # another process clears it too, or may not
                    _clear_if_stale(Path(entry.path), entry.is_dir(follow_symlinks=False))


def _clear_if_stale(path: Path, folder: bool) -> None:
    if not path.name.startswith(PREFIX + _machine()):
        if time.time() - path.lstat().st_mtime > FORGOTTEN:
            _remove(path, folder)
        return
    lock = os.open(path, (os.O_RDONLY if folder else os.O_RDWR) | os.O_NOFOLLOW)  # NFS locks what may be written
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError, an OSError: its writer lives
        _remove(path, folder)
    finally:
        os.close(lock)


def _remove(path: Path, folder: bool) -> None:
    if folder:
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _new(parent: Path, ending: str, *, folder: bool) -> tuple[Path, int]:
    """A new temporary file or folder in `parent`, and the descriptor that holds its lock."""
    while True:
        name = parent / f"{PREFIX}{_machine()}-{secrets.token_hex(8)}{ending}"
        if folder:
            name.mkdir()  # 0o777 less the umask, which only the kernel can apply without a moment of none
            try:
                lock = os.open(name, os.O_RDONLY)
            except FileNotFoundError:
                continue  # as below
        else:
            lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with contextlib.suppress(OSError):  # a file system without locks: nobody else can take one either
            fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(name), os.fstat(lock)):
                return name, lock
        os.close(lock)  # another process cleared it between its making and its lock


def _refuse_long(target: Path) -> None:
    """Raise OSError for a name that the file system does not take, before anything is computed for it."""
    with contextlib.suppress(FileNotFoundError):
        os.lstat(target)


@functools.cache
def _machine() -> str:
    """Eight digits that differ between machines, and between starts of one."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        boot = platform.node()
    return hashlib.sha256(boot.encode()).hexdigest()[:8]
