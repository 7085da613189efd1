"""A folder of brain masks, made by a skull-stripping tool: one for each scan."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from mednext_jax.errors import InputError, Problem
from mednext_jax.io.absent import refuse_no_folder
from mednext_jax.io.geometry import grid_problems
from mednext_jax.io.nifti import Grid, label_volume, read_labels
from mednext_jax.io.nifti_names import few, files_below, is_nifti_name, stem
from mednext_jax.io.raw_dataset import RawDataset
from mednext_jax.io.voxels import Source

# What a mask is called after its case: BIDS derivatives' name, _mask, or nothing. The name that says most comes first:
# skull-stripping tools write the stripped scan, CASE.nii.gz, beside CASE_mask.nii.gz.
SUFFIXES = ("_desc-brain_mask", "_mask", "")
BRAIN_MASK = re.compile(r"_(label|desc)-(brain|head)(_|$)|_brain_?mask$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class BrainMasks:
    """The masks CASE.nii.gz, CASE_mask.nii.gz or CASE_desc-brain_mask.nii.gz of a folder and those below it."""

    folder: Path
    files: dict[str, tuple[Path, ...]]  # by name without ending

    @classmethod
    def open(cls, folder: str | os.PathLike) -> BrainMasks:
        """List a folder; raises InputError if it is missing."""
        folder = Path(folder)
        refuse_no_folder(folder, "The folder of brain masks is missing.", hint="check --brain-masks")
        files: dict[str, tuple[Path, ...]] = {}
        for path in filter(is_nifti_name, files_below(folder)):
            files[stem(path)] = (*files.get(stem(path), ()), path)
        return cls(folder, files)

    def path(self, case: str) -> Path | None:
        """The mask of a case, None if there is none or if there are several of one name."""
        found = self._called(case)
        return found[0] if len(found) == 1 else None

    def paths(self, cases: Sequence[str]) -> tuple[dict[str, Path], list[tuple[str, Problem]]]:
        """Case -> its mask, and what is wrong with the cases that have none, as (case, problem)."""
        found = {case: path for case in cases if (path := self.path(case)) is not None}
        return found, [(case, self._missing(case)) for case in cases if case not in found]

    def added_to(self, raw: RawDataset) -> RawDataset:
        """The data set with each case's mask; a case without one is among its problems."""
        cases = tuple(dataclasses.replace(case, brain=self.path(case.id)) for case in raw.cases)
        problems = [self._missing(case.id) for case in cases if case.brain is None]
        return dataclasses.replace(raw, cases=cases, problems=(*raw.problems, *problems))

    def _missing(self, case: str) -> Problem:
        expected = " or ".join(f"{case}{suffix}.nii.gz" for suffix in reversed(SUFFIXES))
        several = self._called(case)
        if several:
            found = few([str(path.relative_to(self.folder)) for path in several])
            return Problem("A case has several brain masks.", str(self.folder), expected, found, "keep one of them")
        hint = "add the mask, or leave brain extraction out"
        return Problem("A case has no brain mask.", str(self.folder), expected=expected, hint=hint)

    def _called(self, case: str) -> tuple[Path, ...]:
        return next((self.files[case + s] for s in SUFFIXES if case + s in self.files), ())


def is_brain_mask(path: Path) -> bool:
    """Whether a label map is by its name one of the brain or the head: CASE_desc-brain_mask, CASE_brain_mask, ..."""
    return BRAIN_MASK.search(stem(path)) is not None


def read_brain(path: Source, like: nib.Nifti1Image, grid: Grid) -> tuple[np.ndarray, list[Problem]]:
    """A brain mask (d, h, w), boolean, on the grid of the scan `like`, and what is odd about it, as warnings.

    Raises InputError if it cannot be read, lies on another grid or is empty.
    """
    image = read_labels(path)
    name = path if isinstance(path, str | os.PathLike) else "the brain mask in memory"
    problems = brain_problems(image, like, name, like.get_filename() or "the scan")
    errors = [problem for problem in problems if problem.severity == "E"]
    if errors:
        raise InputError.of(errors)
    return label_volume(image, grid) != 0, problems


def brain_problems(
    mask: nib.Nifti1Image, scan: nib.Nifti1Image, path: str | os.PathLike, scan_path: str | os.PathLike
) -> list[Problem]:
    """What is wrong with the brain mask at `path` for the scan at `scan_path`: its grid, nothing in it, many values."""
    problems = grid_problems(mask, scan, "The brain mask", path, scan_path)
    if not np.any(mask.dataobj):
        problems.append(Problem("The brain mask is empty.", str(path), hint="make it again"))
    return problems + _value_warnings(mask, path)


def _value_warnings(mask: nib.Nifti1Image, path: str | os.PathLike) -> list[Problem]:
    """A warning if a mask has several values above 0, all of which count: a probability, a parcellation or a scan."""
    values = np.unique(np.asanyarray(mask.dataobj))
    values = values[values != 0]
    if len(values) < 2:
        return []
    return [
        Problem(
            "The brain mask has several values.",
            str(path),
            expected="0 and one other value",
            found=f"{len(values)} values from {values.min()} to {values.max()}",
            hint="every voxel that is not 0 counts as brain; threshold a probability map first",
            severity="W",
        )
    ]
