"""What `predict` writes: masks, probabilities, side-cars, the table of volumes, and how it was done."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from nibabel.affines import voxel_sizes

import mednext_jax
from mednext_jax.inference.predictor import Predictor, Segmentation
from mednext_jax.inference.scans import Scan
from mednext_jax.io.atomic import atomic_file
from mednext_jax.io.json_file import read_json
from mednext_jax.io.nifti import write_image
from mednext_jax.measure.clusters import label_clusters
from mednext_jax.weights.directory import DESCRIPTION

COLUMNS = ("scan", "count", "volume_mm3", "seconds")
BIDS_VERSION = "1.10.0"


def write_scan(output: Path, scan: Scan, result: Segmentation, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Write mask and probability of one scan (BIDS: with side-cars); returns its row of the table.

    The row: scan, count of 26-connected clusters, their volume in mm3, and the seconds spent on the scan.
    """
    write_image(output / scan.mask, result.mask)
    write_image(output / scan.probability, result.probability)
    if scan.bids_sources:
        about = {
            "Sources": [f"bids:raw:{path}" for path in scan.bids_sources],
            "SpatialReference": "orig",
            "Label": "PVS",
        }
        _write_json(_side_car(output / scan.mask), {**about, "Type": "ROI", "Threshold": settings["threshold"]})
        _write_json(_side_car(output / scan.probability), about)
    mask = np.asarray(result.mask.dataobj) > 0
    volume = float(mask.sum() * np.prod(voxel_sizes(result.mask.affine)))
    seconds = round(sum(result.seconds.values()), 3)
    return {"scan": scan.case, "count": label_clusters(mask)[1], "volume_mm3": round(volume, 3), "seconds": seconds}


def table_paths(output: Path, part: tuple[int, int]) -> tuple[Path, Path]:
    """The table of volumes and the description of the run; parts of a cohort have their own."""
    suffix = "" if part == (1, 1) else f"_part-{part[0]}-of-{part[1]}"
    return output / f"volumes{suffix}.tsv", output / f"prediction{suffix}.json"


def write_tables(
    output: Path, rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], part: tuple[int, int], bids: bool
) -> None:
    """Write volumes.tsv and prediction.json; for a BIDS derivative also dataset_description.json."""
    table, description = table_paths(output, part)
    with atomic_file(table) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    _write_json(description, settings)
    if bids:
        derivative = {
            "Name": "Perivascular spaces",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "mednext-jax", "Version": mednext_jax.__version__}],
            "DatasetLinks": {"raw": settings["inputs"]},
        }
        _write_json(output / "dataset_description.json", derivative)


def describe_run(predictor: Predictor, inputs: Path, part: tuple[int, int]) -> dict[str, Any]:
    """How the outputs came about: models with their checksums, settings, software, device."""
    models = []
    for path in predictor.paths:
        stored = {} if path is None else read_json(path / DESCRIPTION)
        models.append({"path": str(path), "sha256": stored.get("weights", {}).get("sha256")})
    return {
        "inputs": inputs.resolve().as_posix(),
        "models": models,
        "threshold": predictor.threshold,
        "mirror_axes": list(predictor.window.mirror_axes),
        "step": predictor.window.step,
        "skip_background": predictor.skip_background,
        "background": predictor.background,
        "part": list(part),
        "software": {"mednext_jax": mednext_jax.__version__, "jax": jax.__version__},
        "device": jax.devices()[0].device_kind,
    }


def _side_car(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".nii.gz") + ".json")


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
