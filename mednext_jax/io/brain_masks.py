"""A folder of brain masks, made by a skull-stripping tool: one for each scan."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import nibabel as nib
import numpy as np

from mednext_jax.errors import InputError, Problem
from mednext_jax.io.geometry import grid_problems
from mednext_jax.io.nifti import Grid, label_volume, read_labels
from mednext_jax.io.nifti_header import NIFTI_ENDINGS
from mednext_jax.io.raw_dataset import RawDataset

# What a mask is called after its case: nothing, _mask, or BIDS derivatives' name.
SUFFIXES = ("", "_mask", "_desc-brain_mask")


@dataclasses.dataclass(frozen=True)
class BrainMasks:
    """The masks CASE.nii.gz, CASE_mask.nii.gz or CASE_desc-brain_mask.nii.gz of a folder and those below it."""

    folder: Path
    files: dict[str, Path]  # by name without ending

    @classmethod
    def open(cls, folder: str | os.PathLike) -> BrainMasks:
        """List a folder; raises InputError if it is missing."""
        folder = Path(folder)
        if not folder.is_dir():
            raise InputError("The folder of brain masks is missing.", file=folder, hint="check --brain-masks")
        files = sorted(path for path in folder.rglob("*") if path.name.endswith(NIFTI_ENDINGS))
        return cls(folder, {path.name.removesuffix(".gz").removesuffix(".nii"): path for path in files})

    def path(self, case: str) -> Path | None:
        """The mask of a case, None if there is none."""
        return next((self.files[case + s] for s in SUFFIXES if case + s in self.files), None)

    def paths(self, cases: list[str]) -> list[Path]:
        """The masks of `cases`; raises InputError that names every case without one."""
        missing = [self._missing(case) for case in cases if self.path(case) is None]
        if missing:
            raise InputError.of(missing)
        return [path for case in cases if (path := self.path(case)) is not None]

    def added_to(self, raw: RawDataset) -> RawDataset:
        """The data set with each case's mask; a case without one is among its problems."""
        cases = tuple(dataclasses.replace(case, brain=self.path(case.id)) for case in raw.cases)
        problems = [self._missing(case.id) for case in cases if case.brain is None]
        return dataclasses.replace(raw, cases=cases, problems=(*raw.problems, *problems))

    def _missing(self, case: str) -> Problem:
        expected = " or ".join(f"{case}{suffix}.nii.gz" for suffix in SUFFIXES)
        what, hint = f"There is no brain mask for {case}.", "add the mask, or leave brain extraction out"
        return Problem(what, str(self.folder), expected=expected, hint=hint)


def read_brain(path: str | os.PathLike, like: nib.Nifti1Image, grid: Grid) -> np.ndarray:
    """A brain mask (d, h, w), boolean, on the grid of the scan `like`.

    Raises InputError if it cannot be read, lies on another grid or is empty.
    """
    image = read_labels(path)
    problems = brain_problems(image, like, path, like.get_filename() or "the scan")
    errors = [problem for problem in problems if problem.severity == "E"]
    if errors:
        raise InputError.of(errors)
    return label_volume(image, grid) != 0


def brain_problems(
    mask: nib.Nifti1Image, scan: nib.Nifti1Image, path: str | os.PathLike, scan_path: str | os.PathLike
) -> list[Problem]:
    """What is wrong with the brain mask at `path` for the scan at `scan_path`: another grid, or nothing in it."""
    problems = grid_problems(mask, scan, "The brain mask", path, scan_path)
    if not np.any(mask.dataobj):
        problems.append(Problem("The brain mask is empty.", str(path), hint="make it again"))
    return problems
