"""How the outputs of a scan are called beside its mask, and what BIDS wants to be told of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mednext_jax.inference.scans import Scan
from mednext_jax.quantify.tables import TableFiles
from mednext_jax.version import __version__

BIDS_VERSION = "1.10.0"
# What BIDS has no names for.
BIDS_IGNORES = (
    "volumes*.tsv\nfailed*.tsv\npvs*\nclusters.json\nprediction*.json\nscans*.json\n*.log\n"
    "records/\n*_stats.tsv\n*.html\n"
)


def table_files(scan: Scan) -> TableFiles:
    """Where the tables of a scan lie in the output folder."""
    return TableFiles.bids(scan.mask.parent, scan.case) if scan.bids_sources else TableFiles.plain(scan.case)


def brain_path(scan: Scan) -> Path:
    """Where the mask of the brain that was extracted lies: CASE_desc-brain_mask.nii.gz, in BIDS with its space."""
    space = "_space-orig" if scan.bids_sources else ""
    return scan.mask.parent / f"{scan.case}{space}_desc-brain_mask.nii.gz"


def side_cars(scan: Scan, threshold: float | None, maps: Mapping[str, Any]) -> dict[Path, dict[str, Any]]:
    """The side-cars of a scan from a BIDS data set: of mask, probability, and `maps` by their names."""
    if not scan.bids_sources:
        return {}
    about = {
        "Sources": [f"bids:raw:{path}" for path in scan.bids_sources],
        "SpatialReference": "orig",
        "Label": "PVS",
    }
    found = {_side_car(table_files(scan).map_of(name)): about for name in maps}
    return {
        **found,
        _side_car(scan.probability): about,
        _side_car(scan.mask): {**about, "Type": "ROI", "Threshold": threshold},
    }


def brain_side_car(scan: Scan, tool: str) -> dict[Path, dict[str, Any]]:
    """The side-car of an extracted brain's mask, if the scan is of a BIDS data set."""
    if not scan.bids_sources:
        return {}
    sources = [f"bids:raw:{scan.bids_sources[0]}"]
    about = {"Sources": sources, "SpatialReference": "orig", "Type": "Brain", "GeneratedBy": tool}
    return {_side_car(brain_path(scan)): about}


def describe_derivative(inputs: str) -> dict[str, Any]:
    """dataset_description.json of the outputs from the BIDS data set `inputs`."""
    return {
        "Name": "Perivascular spaces",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "mednext-jax", "Version": __version__}],
        "DatasetLinks": {"raw": inputs},
    }


def _side_car(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".nii.gz") + ".json")
