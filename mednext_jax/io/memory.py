"""How much memory may still be taken, so that a size that a file declares is judged before it is allocated."""

from __future__ import annotations

import math
from pathlib import Path

from mednext_jax.errors import InputError

GIB = 2**30
_MACHINE, _OWN_GROUP, _GROUPS = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


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
    """The least that a control group (version 2) of this process or one above it leaves; its file cache is free."""
    try:
        lines = _OWN_GROUP.read_text().splitlines()
        own = next(line.removeprefix("0::/") for line in lines if line.startswith("0::/"))
    except (OSError, StopIteration):
        return math.inf
    left = math.inf
    for group in (_GROUPS / own, *(_GROUPS / own).parents):
        try:
            limit = (group / "memory.max").read_text().strip()
            if limit != "max":
                used = int((group / "memory.current").read_text())
                kept = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                cache = int(kept["inactive_file"]) + int(kept["active_file"])
                left = min(left, int(limit) - used + cache)
        except (OSError, ValueError, KeyError):
            continue  # the root has no limit of its own
    return left
