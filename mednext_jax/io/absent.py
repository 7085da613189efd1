"""Files whose content is not there: links to nowhere, pointers of git-annex and Git LFS, files of 0 bytes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from mednext_jax.errors import InputError, Problem

LFS_START = b"version https://git-lfs.github.com/spec/"
# An unlocked file of git-annex holds the path of its content until that is fetched.
ANNEX_START = b"/annex/objects/"
ANNEX_HINT = "fetch it with `datalad get {file}` or `git annex get {file}`"
LINK_HINT = "bring back what the link points to, or copy the file itself"


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
        return InputError(says, file=path, expected=expected, found=found, hint=hint)

    try:
        if path.is_dir():
            raise refuse(missing, "a folder", "name the file itself")
        if not path.exists():
            found, hint = found_at(path)
            raise refuse(elsewhere if "git-annex" in found else missing, found, hint or "check the path")
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
        raise refuse(elsewhere, "a pointer of git-annex", ANNEX_HINT.format(file=path))


def refuse_no_folder(
    path: str | os.PathLike, says: str, *, expected: str | None = None, hint: str = "check the path"
) -> None:
    """Raise InputError that `says` what is missing if there is no folder at `path`, with what is there; or return."""
    path = Path(path)
    if path.is_dir():
        return
    found, told = ("a file", None) if path.exists() else found_at(path)
    raise InputError(says, file=path, expected=expected, found=found, hint=told or hint)


def found_at(path: Path) -> tuple[str, str | None]:
    """What is at a path that does not exist, and how to get it: nothing, or a link to nowhere at it or above it."""
    for link in (path, *path.parents):
        if is_dangling(link):
            target, where = os.readlink(link), "" if link == path else f"in {link}, "
            if "annex/objects/" in target:
                return f"{where}a link of git-annex to {target}, which is not there", ANNEX_HINT.format(file=path)
            return f"{where}a link to {target}, which is not there", LINK_HINT
    return "nothing", None


def is_dangling(path: Path) -> bool:
    """Whether a path is a link to what is not there."""
    return path.is_symlink() and not path.exists()


def dangling_folders(paths: Iterable[Path], severity: Literal["E", "W"] = "W") -> list[Problem]:
    """A problem for each link to nowhere among `paths` whose name has no ending: what was a folder, left out."""
    problems = []
    for path in paths:
        if not path.suffix and is_dangling(path):
            what = "A folder is missing; what was in it is left out."
            problems.append(Problem(what, str(path), None, *found_at(path), severity))
    return problems
