"""Why a scan has no outputs: at which stage it failed, of what, whose fault that is, and what may help."""

from __future__ import annotations

import dataclasses
import errno
from pathlib import Path
from typing import Literal

import jax

from mednext_jax.errors import InputError, Problem, WorkError, is_out_of_memory
from mednext_jax.inference.scans import Scan

# find: names, channels and headers of the cohort; regions: the scan is segmented, its tables lack the regions.
FailedStage = Literal["find", "brain", "read", "segment", "write", "regions"]
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclasses.dataclass(frozen=True)
class Failure:
    """One scan that failed. by_input: whether its files, or the call, are at fault."""

    case: str
    stage: FailedStage
    problems: tuple[Problem, ...]
    by_input: bool

    @classmethod
    def of(cls, scan: Scan, stage: FailedStage, error: Exception) -> Failure:
        """Without the error itself, whose traceback would keep the scan in memory."""
        file = str(scan.files[0])
        if isinstance(error, InputError):
            problems = (dataclasses.replace(p, file=p.file or file) for p in error.problems)
            return cls(scan.case, stage, tuple(problems), by_input=True)
        found, hint = _in_words(error)
        return cls(scan.case, stage, (Problem("The scan could not be segmented.", file, None, found, hint),), False)

    @classmethod
    def of_tables(cls, folder: Path, error: OSError) -> Failure:
        """The tables of a cohort that could not be written; the scans are."""
        found, hint = _in_words(error)
        return cls("", "write", (Problem("The tables could not be written.", str(folder), None, found, hint),), False)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


def _in_words(error: Exception) -> tuple[str, str | None]:
    """What an error says in its first line, and what may help."""
    said = (str(error) or type(error).__name__).splitlines()[0]
    if isinstance(error, MemoryError):
        return said, "the machine's memory is full: give the job more, or run fewer beside each other on it"
    if is_out_of_memory(error):
        return said, "the device's memory is full with one tile at once: use a device with more, or crop the scan"
    if isinstance(error, OSError):
        hint = "make room on the disk; the same command then does the scans that are missing"
        return error.strerror or said, hint if error.errno in _FULL else None  # the file is a temporary one
    if isinstance(error, WorkError | jax.errors.JaxRuntimeError):
        return said, None
    return f"{type(error).__name__}: {said}", None
