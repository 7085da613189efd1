"""The numbers of one scan: the tables that `quantify` wrote, or counted here from the mask where there are none."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from mednext_jax.errors import InputError
from mednext_jax.io.geometry import grid_problems
from mednext_jax.io.json_file import read_json
from mednext_jax.io.nifti import read_labels
from mednext_jax.io.table_cell import unquoted
from mednext_jax.measure.clusters import cluster_table, label_clusters
from mednext_jax.report.predicted import PredictedScan

MISSING = "n/a"
WHOLE_BRAIN = "whole brain"
# The files of a scan after its case: as `quantify` names them, and as BIDS does.
ENDINGS = {
    "clusters": ("_clusters.tsv", "_space-orig_seg-PVS_dseg.tsv"),
    "regions": ("_regions.tsv", "_space-orig_desc-pvs_stats.tsv"),
    "image": ("_clusters.nii.gz", "_space-orig_seg-PVS_dseg.nii.gz"),
}
DICTIONARIES = ("clusters.json", "pvs.json")
# Columns of 0 and 1, or of a cluster's size, and what a reader is told instead.
REMARKS = {
    "possible_lacune": "possible lacune",
    "touches_csf_or_cortex": "touches fluid or cortex",
    "below_resolution": "narrower than 1.5 voxels",
    "region_tie": "between two regions",
}
SMALL = "too small to count"
BOTH = ("both", "")
# What the columns that are counted here mean.
COUNTED = {
    "cluster": {"Description": "Number of the cluster: 26-connected voxels of the mask"},
    "x_mm": {"Description": "Centroid, scanner coordinates, to the right", "Units": "mm"},
    "y_mm": {"Description": "Centroid, scanner coordinates, to the front", "Units": "mm"},
    "z_mm": {"Description": "Centroid, scanner coordinates, upwards", "Units": "mm"},
    "voxels": {"Description": "Voxels of the cluster"},
    "volume_mm3": {"Description": "Volume", "Units": "mm3"},
    "length_mm": {"Description": "Extent along the cluster's longest direction", "Units": "mm"},
    "width_mm": {"Description": "Diameter of the cylinder of this length and volume", "Units": "mm"},
    "probability_mean": {"Description": "Mean of the model's probability over the cluster"},
    "probability_max": {"Description": "Largest of the model's probability in the cluster"},
    "count": {"Description": "Number of clusters"},
}

Row = dict[str, str]


@dataclasses.dataclass(frozen=True)
class Measured:
    """labels (x, y, z): the clusters' numbers on the mask's grid. dictionary: column -> Description, Units.

    counted_here: there were no tables of `quantify`.
    """

    labels: nib.Nifti1Image
    clusters: list[Row]
    regions: list[Row]
    dictionary: Mapping[str, Mapping[str, Any]]
    counted_here: bool

    @property
    def whole(self) -> Row:
        """The row of the whole brain; {} if the table has none."""
        return next((row for row in self.regions if is_whole(row)), {})

    @property
    def counted(self) -> list[Row]:
        """The clusters that are large enough to be counted."""
        return [row for row in self.clusters if row.get("counted", "") != "0"]

    @property
    def small(self) -> set[int]:
        """The numbers of those that are not."""
        return {int(label) for row in self.clusters if row.get("counted") == "0" and (label := number(row, "cluster"))}


def is_whole(row: Mapping[str, str]) -> bool:
    """Whether a row is that of the whole brain, both sides."""
    return row.get("region", WHOLE_BRAIN) == WHOLE_BRAIN and row.get("hemisphere", "") in BOTH


def remarks(row: Mapping[str, str]) -> list[str]:
    """What is odd about a cluster, in words."""
    small = [SMALL] if row.get("counted") == "0" else []
    return small + [words for column, words in REMARKS.items() if row.get(column) == "1"]


def read_measured(scan: PredictedScan, root: Path, mask: nib.Nifti1Image, probability: np.ndarray | None) -> Measured:
    """The scan's tables, each read if it is there, else counted from the `mask` (`read_labels`).

    root: the folder with the data dictionaries.

    Raises InputError for a damaged table, or for clusters that do not lie on the mask's grid.
    """
    tables = table_files(scan)
    image = tables.get("image")
    if image is not None:
        labels = read_labels(image)
        wrong = [p for p in grid_problems(labels, mask, "A cluster map", image, scan.mask) if p.severity == "E"]
        if wrong:
            raise InputError.of(wrong)
    else:
        labelled, _ = label_clusters(np.asanyarray(mask.dataobj))
        labels = nib.Nifti1Image(labelled, mask.affine, mask.header)
    dictionary = COUNTED | read_dictionaries(root)
    clusters = read_table(tables["clusters"]) if "clusters" in tables else count_clusters(labels, probability)
    regions = read_table(tables["regions"]) if "regions" in tables else [_count_all(clusters)]
    return Measured(labels, clusters, regions, dictionary, "clusters" not in tables)


def table_files(scan: PredictedScan) -> dict[str, Path]:
    """What `quantify` wrote of a scan, as far as it is there: "clusters" and "regions" (tables), "image" (labels)."""
    found = {}
    for kind, endings in ENDINGS.items():
        if path := next((p for end in endings if (p := scan.tables / f"{scan.case}{end}").is_file()), None):
            found[kind] = path
    return found


def count_clusters(labels: nib.Nifti1Image, probability: np.ndarray | None) -> list[Row]:
    """A row for each cluster of a label map, with what can be counted without regions."""
    array = np.asanyarray(labels.dataobj)
    count = int(array.max(initial=0))
    rows = []
    inside = array > 0
    mean, peak = np.zeros(count), np.zeros(count)
    if probability is not None and count:
        owner, values = array[inside] - 1, probability[inside]
        mean = np.bincount(owner, values, count) / np.maximum(np.bincount(owner, minlength=count), 1)
        np.maximum.at(peak, owner, values)
    for cluster in cluster_table(array, count, labels.affine):
        row = {
            "cluster": str(cluster.label),
            "x_mm": f"{cluster.x_mm:.2f}",
            "y_mm": f"{cluster.y_mm:.2f}",
            "z_mm": f"{cluster.z_mm:.2f}",
            "voxels": str(cluster.voxels),
            "volume_mm3": f"{cluster.volume_mm3:.3f}",
            "length_mm": f"{cluster.length_mm:.2f}",
            "width_mm": f"{cluster.width_mm:.2f}",
        }
        if probability is not None:
            row |= {
                "probability_mean": f"{mean[cluster.label - 1]:.3f}",
                "probability_max": f"{peak[cluster.label - 1]:.3f}",
            }
        rows.append(row)
    return rows


def read_table(path: Path) -> list[Row]:
    """The rows of a tab-separated file, as `iterate_table` gives them."""
    return list(iterate_table(path))


def iterate_table(path: Path) -> Iterator[Row]:
    """The rows of a tab-separated file one by one, column -> text; InputError without a header or for a row too short.

    A cell n/a, as BIDS has it where there is no value, is empty here.
    """
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        lines = csv.reader(file, delimiter="\t")
        try:
            header = next(lines, [])
            if not header or len(set(header)) != len(header):
                found = "a column twice" if header else "no line"
                raise InputError("The table has no header.", file=path, expected="a line of names", found=found)
            for line, row in enumerate(lines, 2):
                if len(row) != len(header):
                    expected = f"{len(header)} cells in each line"
                    raise InputError(
                        "The table is damaged.", file=path, expected=expected, found=f"{len(row)} in line {line}"
                    )
                yield dict(zip(header, ("" if cell == MISSING else unquoted(cell) for cell in row), strict=True))
        except csv.Error as error:
            raise InputError("The table cannot be read.", file=path, found=str(error)) from None


def read_dictionaries(folder: Path) -> dict[str, Mapping[str, Any]]:
    """The data dictionaries of `quantify` in its output folder, as one."""
    return {name: about for file in DICTIONARIES for name, about in read_dictionary(folder / file).items()}


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


def _count_all(clusters: Sequence[Row]) -> Row:
    volumes = numbers(clusters, "volume_mm3")
    row = {"region": WHOLE_BRAIN, "count": str(len(clusters)), "volume_mm3": f"{sum(volumes):.3f}"}
    if volumes:
        row |= {"volume_median_mm3": f"{np.median(volumes):.3f}", "volume_max_mm3": f"{max(volumes):.3f}"}
    return row
