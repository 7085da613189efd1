"""Region maps: which voxels of a scan are white matter, basal ganglia, ...

A folder with one integer map per case, CASE.nii.gz, and `regions.json` that names the values: {"white matter": 1, ...}.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
import numpy as np

from mednext_jax.errors import InputError, Problem
from mednext_jax.io.geometry import grid_problems
from mednext_jax.io.json_file import read_json
from mednext_jax.io.nifti import read_labels
from mednext_jax.io.nifti_names import few, files_in, is_nifti_name, stem
from mednext_jax.io.raw_dataset import RawDataset, whole_number

NAMES = "regions.json"
WHOLE = "all"  # what tables call the whole scan


@dataclasses.dataclass(frozen=True)
class RegionMaps:
    """The maps of a data set. names: value in the maps -> name of the region."""

    folder: Path
    names: dict[int, str]

    @classmethod
    def open(cls, folder: str | Path) -> RegionMaps:
        """Read `regions.json`; raises InputError if it is missing or does not name whole positive values."""
        path = Path(folder) / NAMES
        names = read_json(path)
        values = [whole_number(value) for value in names.values()] if isinstance(names, dict) else []
        if not values or not all(values) or len(set(values)) < len(values) or WHOLE in names:
            raise InputError(
                "The region names do not each have their own whole positive value.",
                file=path,
                expected=f'an object such as {{"white matter": 1, "basal ganglia": 2}}, no region called "{WHOLE}"',
                found=json.dumps(names)[:200],
            )
        return cls(
            Path(folder), dict(sorted((value, name) for value, name in zip(values, names, strict=True) if value))
        )

    def read(self, case: str, like: nib.Nifti1Image) -> tuple[np.ndarray, list[Problem]]:
        """The map (x, y, z) of `case`, on the grid of `like`, and what is odd about it, as warnings.

        Values without a name count as no region (0). Raises InputError for a map that cannot be used.
        """
        path = self.path(case)
        if path is None:
            raise InputError.of([self._missing(case)])
        image = read_labels(path)
        problems = grid_problems(image, like, "The region map", path, like.get_filename() or "the label map")
        if any(problem.severity == "E" for problem in problems):
            raise InputError.of(problems)
        return only_named(np.asanyarray(image.dataobj), self.names), problems

    def path(self, case: str) -> Path | None:
        """The file of a case's map, CASE.nii.gz or CASE.nii; None if there is none, or both."""
        found = self._files.get(case, ())
        return found[0] if len(found) == 1 else None

    @functools.cached_property
    def _files(self) -> dict[str, tuple[Path, ...]]:
        files: dict[str, tuple[Path, ...]] = {}
        for path in filter(is_nifti_name, files_in(self.folder)):
            files[stem(path)] = (*files.get(stem(path), ()), path)
        return files

    def added_to(self, raw: RawDataset) -> RawDataset:
        """The data set with each case's map; a case without one is among its problems."""
        cases = tuple(dataclasses.replace(case, regions=self.path(case.id)) for case in raw.cases)
        problems = [self._missing(case.id) for case in cases if case.regions is None]
        names = {name: value for value, name in self.names.items()}
        return dataclasses.replace(raw, cases=cases, regions=names, problems=(*raw.problems, *problems))

    def _missing(self, case: str) -> Problem:
        if several := self._files.get(case, ()):
            what, hint = "A case has several region maps.", "keep one of them"
            return Problem(what, str(self.folder), f"{case}.nii.gz", few([path.name for path in several]), hint)
        what, hint = "A case has no region map.", "add the map, or leave the regions out"
        return Problem(what, str(self.folder), expected=f"{case}.nii.gz", hint=hint)


def only_named(values: np.ndarray, names: Iterable[int]) -> np.ndarray:
    """A region map with 0, no region, for values that are not among `names`."""
    return np.where(np.isin(values, list(names)), values, 0)
