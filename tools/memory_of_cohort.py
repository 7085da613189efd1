"""Memory, file handles and threads of `predict` over many tiny scans: none of them may grow with the scans.

    python -m tools.memory_of_cohort --scans 1000 --early 100

Scans of 40 x 36 x 32 random voxels and a tiny network on the CPU. After each scan the process's resident memory, open
handles and threads are read from /proc/self; printed are those after the early and the last scan, medians of 20 scans,
and the exit status is 1 if memory has grown by more than 5 %, handles at all, or threads by more than the pools hold.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import nibabel as nib
import numpy as np

from mednext_jax.inference.predict import predict
from mednext_jax.inference.progress import CohortProgress
from mednext_jax.inference.stream import READERS, WRITERS
from tools.kill_predict import write_inputs

LIMIT = 1.05
MEDIAN_OF = 20


def measure() -> tuple[int, int, int]:
    """Bytes of resident memory, open handles, threads of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def watch(folder: Path, scans: int) -> list[tuple[int, int, int]]:
    """Segment `scans` in the new folder `folder`; what `measure` says after each."""
    arguments = write_inputs(folder, 1)
    first = nib.load(folder / "scans" / "case00.nii.gz")
    voxels, rng = np.asarray(first.dataobj), np.random.default_rng(0)
    for i in range(1, scans):
        image = nib.Nifti1Image(rng.permutation(voxels), first.affine)
        nib.save(image, folder / "scans" / f"case{i:05d}.nii.gz")
    found: list[tuple[int, int, int]] = []
    take = CohortProgress.take

    def watched(self: CohortProgress, *outcome: Any) -> None:
        take(self, *outcome)
        found.append(measure())

    with mock.patch.object(CohortProgress, "take", watched):
        predict(arguments[2], folder / "out", arguments[4], tta=False, quiet=True)
    return found


def around(found: list[tuple[int, int, int]], scan: int) -> list[float]:
    """Medians of the scans up to `scan`."""
    return [statistics.median(column) for column in zip(*found[max(0, scan - MEDIAN_OF) : scan], strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=1000)
    parser.add_argument("--early", type=int, default=100, help="the scan that the last is compared with")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = watch(Path(name), options.scans)
    early, late = around(found, options.early), around(found, options.scans)
    for what, one, other in zip(("memory (MiB)", "handles", "threads"), early, late, strict=True):
        scale = 2**20 if "MiB" in what else 1
        print(f"{what:<13} {one / scale:8.1f} after scan {options.early}, {other / scale:8.1f} after {options.scans}")
    print(f"memory grew by {late[0] / early[0] - 1:.1%}")
    sys.exit(late[0] > LIMIT * early[0] or late[1] > early[1] or late[2] > early[2] + READERS + WRITERS)


if __name__ == "__main__":
    main()
