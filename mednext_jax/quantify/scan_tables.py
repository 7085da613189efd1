"""The tables that `predict` writes beside each mask."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from mednext_jax.errors import InputError, Problem
from mednext_jax.io.voxels import Source
from mednext_jax.quantify.members import Members, with_members
from mednext_jax.quantify.one_scan import Counting, Quantified, quantify_arrays
from mednext_jax.quantify.region_source import ATLAS, RegionSource, open_regions
from mednext_jax.quantify.tables import TableFiles, clusters_text, regions_text, side_car


@dataclasses.dataclass(frozen=True)
class ScanTables:
    """How the tables come about. about: the same as JSON, for the record of a run."""

    regions: RegionSource | None
    counting: Counting
    about: dict[str, Any]

    @classmethod
    def open(
        cls, regions: str | Path | None, region_names: str | Path | None, counting: Counting, *, single: bool
    ) -> ScanTables:
        """With regions as `open_regions` takes them; raises InputError if they are not there."""
        source = open_regions(regions, region_names, single=single)
        kept = regions if regions in (None, ATLAS) else Path(regions).resolve().as_posix()
        names = None if region_names is None else str(region_names)
        return cls(source, counting, {"regions": kept, "region_names": names, **dataclasses.asdict(counting)})

    def measure(
        self,
        case: str,
        mask: nib.Nifti1Image,
        probability: np.ndarray | None,
        scan: Source | None,
        members: Members | None = None,
    ) -> tuple[Quantified, list[Problem]]:
        """The measures of a mask (with `with_members`); without regions, and with the reason, if none fit."""
        found, problems = None, list[Problem]()
        if self.regions is not None:
            try:
                found = self.regions(case, mask, scan)
            except InputError as error:
                problems = error.problems
        array, affine = np.asanyarray(mask.dataobj) > 0, np.asarray(mask.affine, np.float64)
        brain = None if found is None else found.brain
        measured = quantify_arrays(array, affine, probability, brain, self.counting)
        if members is not None:
            measured = with_members(measured, members, affine, brain, self.counting)
        return measured if found is None else found.told_in(measured), problems


def table_texts(files: TableFiles, found: Quantified, sources: tuple[str, ...] = ()) -> dict[Path, str]:
    """File -> text of the tables of one scan (the labelled clusters are an image of their own)."""
    texts = {files.clusters: clusters_text(found, bids=files.dictionary is not None)}
    if files.dictionary is not None:
        texts[files.dictionary] = json.dumps(side_car([f"bids:raw:{path}" for path in sources]), indent=2) + "\n"
    return texts | {files.regions: regions_text(found)}
