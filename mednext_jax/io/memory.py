"""How much memory may still be taken, so that a size that a file declares is judged before it is allocated."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from mednext_jax.errors import InputError

GIB = 2**30
_MACHINE, _OWN_GROUP, _GROUPS = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


@dataclasses.dataclass(frozen=True)
class _Files:
    """Where a version of control groups says what may be used and what is."""

    folder: str
    limit: str
    used: str
    cache: tuple[str, str]


# By the controllers that /proc/self/cgroup names: none for version 2.
_FILES = {
    "": _Files("", "memory.max", "memory.current", ("inactive_file", "active_file")),
    "memory": _Files(
        "memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
}


def free_memory() -> float:
    """Bytes that the machine and this process's control groups (containers, batch jobs) still give; inf if unknown."""
    return min(_of_machine(), _of_control_groups())


def refuse_beyond_memory(needed: int, file: object, found: str) -> None:
    """Raise InputError if `needed` bytes for the voxels of `file` are more than the free memory."""
    free = free_memory()
    if needed > free:
        raise InputError(
            "The scan needs more memory than is free.",
            file=file,
            expected=f"at most {free / GIB:.1f} GiB",
            found=f"{needed / GIB:.1f} GiB for {found}",
            hint="crop it, or use a machine with more memory; a brain scan needs less than 1 GiB",
        )


def _of_machine() -> float:
    try:
        lines = _MACHINE.read_text().splitlines()
        return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return math.inf


def _of_control_groups() -> float:
    """The least that a control group of this process or one above it leaves; its file cache is free."""
    try:
        lines = _OWN_GROUP.read_text().splitlines()
    except OSError:
        return math.inf
    left = math.inf
    for line in lines:
        _, controllers, own = line.split(":", 2)
        if controllers not in _FILES and "memory" not in controllers.split(","):
            continue
        files = _FILES.get(controllers, _FILES["memory"])
        place = _GROUPS / files.folder / own.lstrip("/")
        # A container may see the path of its host, and its own group at the top.
        for group in (place, *place.parents):
            left = min(left, _left_in(group, files))
    return left


def _left_in(group: Path, files: _Files) -> float:
    try:
        limit = (group / files.limit).read_text().strip()
        if limit == "max":
            return math.inf
        used = int((group / files.used).read_text())
        kept = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return int(limit) - used + sum(int(kept[name]) for name in files.cache)
    except (OSError, ValueError, KeyError):  # the root has no limit of its own
        return math.inf
