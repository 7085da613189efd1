"""Files whose content is not there: links to nowhere, pointers of git-annex and Git LFS, files of 0 bytes."""

from __future__ import annotations

import os
from pathlib import Path

from mednext_jax.errors import InputError

LFS_START = b"version https://git-lfs.github.com/spec/"
# An unlocked file of git-annex holds the path of its content until that is fetched.
ANNEX_START = b"/annex/objects/"
ANNEX_HINT = "fetch it with `datalad get {file}` or `git annex get {file}`"


def is_named(path: Path) -> bool:
    """Whether something has this name: a link to nowhere, too, which reading it explains."""
    return path.is_symlink() or path.exists()


def refuse_absent(path: str | os.PathLike, what: str, expected: str) -> None:
    """Raise InputError that says why the content of a file is not there, and how to get it; or return.

    what: what the file would be, such as "scan"; expected: a fuller description of it.
    """
    path = Path(path)
    missing, elsewhere = f"A {what} is missing.", f"The content of a {what} is not on this machine."

    def refuse(says: str, found: str, hint: str) -> InputError:
        return InputError(says, file=path, expected=expected, found=found, hint=hint.format(file=path))

    try:
        if path.is_dir():
            raise refuse(missing, "a folder", "name the file itself")
        if not path.exists():
            if not path.is_symlink():
                raise refuse(missing, "nothing", "check the path")
            target = os.readlink(path)
            if "annex/objects/" in target:
                raise refuse(elsewhere, f"a link of git-annex to {target}, which is not there", ANNEX_HINT)
            hint = "bring back what the link points to, or copy the file itself"
            raise refuse(missing, f"a link to {target}, which is not there", hint)
        if not path.is_file():
            raise refuse(missing, "a device, a socket or a pipe", "name a file")
        with path.open("rb") as file:
            start = file.read(len(LFS_START))
    except OSError as error:
        found = error.strerror or type(error).__name__
        raise refuse(f"A {what} cannot be read.", found, "check the path and its permissions") from None
    if not start:
        raise refuse(f"A {what} is empty.", "an empty file: 0 bytes", "copy, download or export it again")
    if start == LFS_START:
        raise refuse(elsewhere, "a pointer of Git LFS", "fetch it with `git lfs pull`")
    if start.startswith(ANNEX_START):
        raise refuse(elsewhere, "a pointer of git-annex", ANNEX_HINT)
