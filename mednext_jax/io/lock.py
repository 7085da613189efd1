"""One process at a time in a folder: a lock that ends with the process that holds it, however it ends."""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from mednext_jax.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# What flock says where a file system has no locks: some NFS, Lustre and FUSE mounts.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_HOLDER = re.compile(r"process (\d+) on (\S+) since .+")
_POLL = 0.05  # seconds
_UNNAMED = 60.0  # seconds that a living process may take to write its name into a new file


@contextlib.contextmanager
def locked(path: str | os.PathLike, what: str, *, hint: str | None = None, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path`, whose folder must exist, as the only process on any machine that sees the folder.

    The lock is the operating system's (flock; on NFS the server's) and goes with the process, also after `kill -9`.
    A file system without locks falls back on the existence of the file: what a process that was killed leaves there
    is cleared on the same machine; on another one the message names the file to remove.
    Raises InputError `what`, with who holds the lock, if it is not free within `wait` seconds. `what` and `hint` are
    for the user: "Another training runs in this folder."
    """
    path = Path(path)
    end = time.monotonic() + wait
    while (handle := _take(path)) is None:
        if time.monotonic() >= end:
            holder = _read(path)
            raise InputError(what, file=path.parent, found=holder or None, hint=hint or _hint(path, holder))
        time.sleep(_POLL)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)  # before others can take it: the name is free only while nobody waits for it
        os.close(handle)


def _take(path: Path) -> int | None:
    """An open handle that holds the lock, or None while another process does."""
    try:
        handle, new = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
    except FileExistsError:
        try:
            handle, new = os.open(path, os.O_RDWR), False
        except FileNotFoundError:  # just released
            return None
    free = _flock(handle)
    with contextlib.suppress(FileNotFoundError):
        if free is None and not new and _is_dead(path):  # the name is the lock
            path.unlink(missing_ok=True)
            os.close(handle)
            return _take(path)
        # A holder that ended between open and flock removed the file: then the lock is on one without a name.
        if (new if free is None else free) and os.path.samestat(os.fstat(handle), os.stat(path)):
            os.ftruncate(handle, 0)
            os.write(handle, _this_process().encode())
            return handle
    os.close(handle)
    return None


def _flock(handle: int) -> bool | None:
    """Whether the system's lock could be taken; None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise


def _this_process() -> str:
    now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    return f"process {os.getpid()} on {socket.gethostname()} since {now}"


def _is_dead(path: Path) -> bool:
    """Whether the process that made the file is one of this machine that is gone, or ended before it wrote its name."""
    match = _HOLDER.fullmatch(_read(path))
    if match is None:
        return time.time() - path.stat().st_mtime > _UNNAMED
    if match[2] != socket.gethostname():
        return False
    try:
        os.kill(int(match[1]), 0)
    except ProcessLookupError:
        return True
    except OSError:  # it is another user's
        return False
    return False


def _read(path: Path) -> str:
    """Who holds the lock, in words; "" if the file does not say."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read(300)
    except OSError:
        return ""
    return text if _HOLDER.fullmatch(text) else ""


def _hint(path: Path, holder: str) -> str:
    match = _HOLDER.fullmatch(holder)
    elsewhere = match is not None and match[2] != socket.gethostname()
    return "wait until it ends, or name another folder" + (
        f"; if that process is gone, remove {path.name} there" if elsewhere else ""
    )
