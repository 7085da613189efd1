"""The files of the measures: labelled clusters, tables, data dictionaries; and many scans' tables as one."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib

from mednext_jax.errors import InputError
from mednext_jax.io.bids import CLUSTERS_ENDING
from mednext_jax.io.nifti import Grid, image_like
from mednext_jax.io.table_cell import quoted, unquoted
from mednext_jax.io.table_file import read_table
from mednext_jax.quantify.columns import (
    CLUSTERS,
    COUNT_UNCERTAINTY,
    INDEX,
    OVERLAP,
    REGIONS,
    SCAN,
    UNCERTAINTY,
    Column,
    dictionary,
    dictionary_text,
)
from mednext_jax.quantify.one_scan import Quantified

COHORT, COHORT_DICTIONARY, CLUSTER_DICTIONARY = "pvs.tsv", "pvs.json", "clusters.json"
AGAIN = "remove this table, and the same call measures the scan again"
_CLUSTER_COLUMNS = (*CLUSTERS, *UNCERTAINTY)
_REGION_COLUMNS = (*REGIONS, *OVERLAP, *COUNT_UNCERTAINTY)


@dataclasses.dataclass(frozen=True)
class TableFiles:
    """Where the files of one scan lie, relative to the output folder. dictionary: of its clusters, in BIDS alone."""

    labels: Path
    clusters: Path
    regions: Path
    dictionary: Path | None = None

    @classmethod
    def plain(cls, case: str) -> TableFiles:
        """CASE_clusters.nii.gz, CASE_clusters.tsv, CASE_regions.tsv."""
        return cls(Path(f"{case}_clusters.nii.gz"), Path(f"{case}_clusters.tsv"), Path(f"{case}_regions.tsv"))

    @classmethod
    def bids(cls, folder: Path, case: str) -> TableFiles:
        """The names of a BIDS derivative: _dseg.nii.gz with its table and side-car, and _desc-pvs_stats.tsv."""
        start = f"{case}_space-orig{CLUSTERS_ENDING}"
        return cls(
            folder / f"{start}.nii.gz",
            folder / f"{start}.tsv",
            folder / f"{case}_space-orig_desc-pvs_stats.tsv",
            folder / f"{start}.json",
        )

    def map_of(self, name: str) -> Path:
        """Where a map of the members lies: CASE_entropy.nii.gz; BIDS: CASE_space-orig_desc-entropy_probseg.nii.gz."""
        start = self.labels.name.removesuffix(".nii.gz")
        if not start.endswith(CLUSTERS_ENDING):
            return self.labels.with_name(f"{start.removesuffix('_clusters')}_{name}.nii.gz")
        described = name.replace("_between_", "").replace("_", "")
        return self.labels.with_name(f"{start.removesuffix(CLUSTERS_ENDING)}_desc-{described}_probseg.nii.gz")


def labels_image(found: Quantified, like: Grid | nib.Nifti1Image) -> nib.Nifti1Image:
    """The labelled clusters on the grid of the scan."""
    return image_like(found.labels, like, found.labels.dtype)


def clusters_text(found: Quantified, *, bids: bool = False) -> str:
    """The table of clusters as TSV; with BIDS's columns index and name first for a dseg.tsv."""
    columns = _present(found.clusters, _CLUSTER_COLUMNS, CLUSTERS)
    rows: Iterable[Mapping[str, Any]] = found.clusters
    if bids:
        columns = [*INDEX, *columns]
        rows = ({"index": row["cluster"], "name": f"PVS {row['cluster']}"} | row for row in found.clusters)
    return _text(columns, rows)


def regions_text(found: Quantified) -> str:
    """The table of regions as TSV."""
    return _text(_present(found.regions, _REGION_COLUMNS, REGIONS), found.regions)


def cohort_text(tables: Iterable[tuple[str, Sequence[Mapping[str, Any]]]]) -> str:
    """One table of the rows of all scans, given as (scan, rows) in their order; a column that a scan lacks is n/a."""
    rows = [{"scan": scan, **row} for scan, table in tables for row in table]
    names = {name for row in rows for name in row}
    return _text([SCAN, *(c for c in _REGION_COLUMNS if c.name in names or c in REGIONS)], rows)


def dictionaries() -> dict[str, str]:
    """Name -> text of the data dictionaries beside the tables."""
    return {
        CLUSTER_DICTIONARY: dictionary_text((*INDEX, *_CLUSTER_COLUMNS)),
        COHORT_DICTIONARY: dictionary_text((SCAN, *_REGION_COLUMNS)),
    }


def side_car(sources: Sequence[str] = ()) -> dict[str, Any]:
    """The side-car of a BIDS dseg: what the columns of its table are; BIDS itself defines index and name."""
    about: dict[str, Any] = {"Sources": list(sources)} if sources else {}
    return about | {"SpatialReference": "orig", "Manual": False, **dictionary(_CLUSTER_COLUMNS)}


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table that was written here, as text with names as they were; n/a stays.

    Raises InputError if it is not one: a column is missing.
    """
    columns, rows = read_table(path, errors="surrogateescape")
    missing = [c.name for c in REGIONS if c.name not in columns]
    if missing:
        raise InputError(
            "The table of regions lacks columns.",
            file=path,
            expected=", ".join(c.name for c in REGIONS),
            found=f"no {', '.join(missing)}",
            hint=AGAIN,
        )
    for number, row in enumerate(rows, 1):
        if "" in row.values():  # what is not known is n/a
            what = "A row of the table of regions is cut off."
            raise InputError(what, file=path, found=f"row {number}", hint=AGAIN)
    return [{name: unquoted(value) for name, value in row.items()} for row in rows]


def read_tables(paths: Mapping[str, Path]) -> dict[str, list[dict[str, str]]]:
    """Case -> `read_rows` of its table, for those that are there; raises InputError with what is wrong with any."""
    found, problems = {}, []
    for case, path in paths.items():
        if os.path.isfile(path):  # False for a name that is too long
            try:
                found[case] = read_rows(path)
            except InputError as error:
                problems += error.problems
    if problems:
        raise InputError.of(problems)
    return found


def _present(rows: Sequence[Mapping[str, Any]], known: Sequence[Column], always: Sequence[Column]) -> list[Column]:
    return [c for c in known if c in always or (rows and c.name in rows[0])]


def _text(columns: Sequence[Column], rows: Iterable[Mapping[str, Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, delimiter="\t", lineterminator="\n")
    writer.writerow([c.name for c in columns])
    writer.writerows([_cell(row.get(c.name), c.decimals) for c in columns] for row in rows)
    return file.getvalue()


def _cell(value: Any, decimals: int) -> str:
    if value is None or value == "":
        return "n/a"
    if isinstance(value, float):
        return f"{round(value, decimals) + 0.0:.{decimals}f}" if math.isfinite(value) else "n/a"  # no -0.0000
    return quoted(value) if isinstance(value, str) and value[:1] not in "-0123456789" else str(value)
