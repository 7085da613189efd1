"""The numbers of one scan: the tables that `quantify` wrote, or counted here from the mask where there are none."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from mednext_jax.errors import InputError
from mednext_jax.io.json_file import read_json
from mednext_jax.io.table_cell import unquoted
from mednext_jax.quantify.one_scan import WHOLE, quantify_arrays
from mednext_jax.quantify.tables import TableFiles, clusters_text, dictionaries, regions_text
from mednext_jax.report.on_grid import read_clusters
from mednext_jax.report.predicted import PredictedScan

MISSING = "n/a"
NARROW = "narrower than 1.5 voxels"
# Columns of 0 and 1, or of a cluster's size, and what a reader is told instead.
REMARKS = {
    "possible_lacune": "possible lacune",
    "touches_csf_or_cortex": "touches fluid or cortex",
    "below_resolution": NARROW,
    "region_tie": "between two regions",
}
SMALL = "too small to count"
BOTH = ("both", "")
TableRow = dict[str, str]


@dataclasses.dataclass(frozen=True)
class Measured:
    """labels (x, y, z): the clusters' numbers on the mask's grid. dictionary: column -> Description, Units.

    counted_here: there were no tables of `quantify`.
    """

    labels: nib.Nifti1Image
    clusters: list[TableRow]
    regions: list[TableRow]
    dictionary: Mapping[str, Mapping[str, Any]]
    counted_here: bool

    @property
    def whole(self) -> TableRow:
        """The row of the whole brain; {} if the table has none."""
        return next((row for row in self.regions if is_whole(row)), {})

    @property
    def counted(self) -> list[TableRow]:
        """The clusters that are large enough to be counted."""
        return [row for row in self.clusters if row.get("counted", "") != "0"]

    @property
    def small(self) -> set[int]:
        """The numbers of those that are not."""
        return {int(label) for row in self.clusters if row.get("counted") == "0" and (label := number(row, "cluster"))}


def is_whole(row: Mapping[str, str]) -> bool:
    """Whether a row is that of the whole brain, both sides."""
    return row.get("region", WHOLE) == WHOLE and row.get("hemisphere", "") in BOTH


def remarks(row: Mapping[str, str]) -> list[str]:
    """What is odd about a cluster, in words."""
    small = [SMALL] if row.get("counted") == "0" else []
    return small + [words for column, words in REMARKS.items() if row.get(column) == "1"]


def read_measured(scan: PredictedScan, root: Path, mask: nib.Nifti1Image, probability: np.ndarray | None) -> Measured:
    """The scan's tables, read if they are all there, else counted from the `mask` (`read_labels`).

    root: the folder with the data dictionaries.

    Raises InputError for a damaged table, or for clusters that do not lie on the mask's grid.
    """
    dictionary = read_dictionaries(root)
    files = table_files(scan)
    if files is None:
        found = quantify_arrays(np.asanyarray(mask.dataobj) > 0, np.asarray(mask.affine, np.float64), probability)
        labels = nib.Nifti1Image(found.labels, mask.affine)
        clusters, regions = (io.StringIO(text) for text in (clusters_text(found), regions_text(found)))
        rows = list(_rows(clusters, scan.mask)), list(_rows(regions, scan.mask))
        return Measured(labels, *rows, dictionary, counted_here=True)
    labels = read_clusters(files.labels, mask, scan.mask)
    return Measured(labels, read_table(files.clusters), read_table(files.regions), dictionary, counted_here=False)


def table_files(scan: PredictedScan) -> TableFiles | None:
    """What `quantify` wrote of a scan, by either of its names; None if a part of it is not there."""
    for names in (TableFiles.plain(scan.case), TableFiles.bids(Path(), scan.case)):
        labels, clusters, regions = (scan.tables / name for name in (names.labels, names.clusters, names.regions))
        if labels.is_file() and clusters.is_file() and regions.is_file():
            return TableFiles(labels, clusters, regions)
    return None


def read_table(path: Path) -> list[TableRow]:
    """The rows of a tab-separated file, as `iterate_table` gives them."""
    return list(iterate_table(path))


def iterate_table(path: Path) -> Iterator[TableRow]:
    """The rows of a tab-separated file one by one, column -> text; InputError without a header or for a row too short.

    A cell n/a, as BIDS has it where there is no value, is empty here.
    """
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        yield from _rows(file, path)


def _rows(text: Iterable[str], path: Path) -> Iterator[TableRow]:
    lines = csv.reader(text, delimiter="\t")
    try:
        header = next(lines, [])
        if not header or len(set(header)) != len(header):
            found = "a column twice" if header else "no line"
            raise InputError("The table has no header.", file=path, expected="a line of names", found=found)
        for line, row in enumerate(lines, 2):
            if len(row) != len(header):
                cells = f"{len(header)} cells in each line"
                raise InputError("The table is damaged.", file=path, expected=cells, found=f"{len(row)} in line {line}")
            yield dict(zip(header, ("" if cell == MISSING else unquoted(cell) for cell in row), strict=True))
    except csv.Error as error:
        raise InputError("The table cannot be read.", file=path, found=str(error)) from None


def read_dictionaries(folder: Path) -> dict[str, Mapping[str, Any]]:
    """What the columns mean: the data dictionaries of an output folder of `quantify`, else today's."""
    found: dict[str, Mapping[str, Any]] = {}
    for name, text in dictionaries().items():
        found |= json.loads(text) | read_dictionary(folder / name)
    return found


def read_dictionary(path: Path) -> dict[str, Mapping[str, Any]]:
    """Column -> {"Description": ..., "Units": ...}; {} without the file, and without what is no such entry."""
    if not path.is_file():
        return {}
    content = read_json(path)
    entries = content.items() if isinstance(content, dict) else ()
    return {name: about for name, about in entries if isinstance(about, dict)}


def number(row: Mapping[str, str], column: str) -> float | None:
    """The number in a cell; None if it is empty, absent or no finite number."""
    try:
        value = float(row.get(column, ""))
    except (TypeError, ValueError):
        return None
    return value if np.isfinite(value) else None


def numbers(rows: Sequence[Mapping[str, str]], column: str) -> list[float]:
    """The numbers of a column, in the rows' order, cells without one left out."""
    return [value for row in rows if (value := number(row, column)) is not None]
