"""A prediction folder as predict and quantify write it, with known clusters, and a browser."""

from __future__ import annotations

import csv
import json
import shutil

import nibabel as nib
import numpy as np
import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
# Voxels of 1 x 1 x 2 mm, stored from left to right (RAS), the origin inside of the head.
AFFINE = np.array([[1.0, 0, 0, -24], [0, 1, 0, -20], [0, 0, 2, -30], [0, 0, 0, 1]])
SHAPE = (48, 40, 30)
# Cluster -> its voxels; 1 is long and on the right, 2 one voxel on the left, 3 in between.
CLUSTERS = {1: [(36, 20, k) for k in range(10, 16)], 2: [(10, 12, 8)], 3: [(12, 28, 20), (13, 28, 20)]}


def write_table(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def write_prediction(tmp_path):
    """Writes a prediction folder of `cases` and their scans; returns the folder.

    tables: with what quantify writes. scans: the folder of scans. affine, shape: of all images.
    """

    def write(cases=("sub-01", "sub-02"), tables=True, listed=True, affine=AFFINE, shape=SHAPE, clusters=None):
        out, scans = tmp_path / "out", tmp_path / "data" / "imagesTr"
        out.mkdir()
        scans.mkdir(parents=True)
        clusters = CLUSTERS if clusters is None else clusters
        volumes, listing, cohort = [], [], []
        for seed, case in enumerate(cases):
            random = np.random.default_rng(seed)
            labels = np.zeros(shape, np.int16)
            for label, voxels in clusters.items():
                labels[tuple(np.array(voxels).T)] = label
            head = np.zeros(shape, bool)
            head[4:-4, 4:-4, 3:-3] = True
            scan = (random.normal(100, 8, shape) * head + 100 * (labels > 0)).astype(np.float32)
            probability = np.where(labels > 0, 0.75, 0.02).astype(np.float32) * head
            for path, array in (
                (scans / f"{case}_0000.nii.gz", scan),
                (out / f"{case}_mask.nii.gz", (labels > 0).astype(np.uint8)),
                (out / f"{case}_probability.nii.gz", probability),
            ):
                nib.save(nib.Nifti1Image(array, affine), path)
            count = len(clusters)
            volume = sum(map(len, clusters.values())) * abs(np.linalg.det(affine))
            volumes.append({"scan": case, "count": count, "volume_mm3": volume, "seconds": 1.5})
            listing.append(
                {
                    "case": case,
                    "files": [str(scans / f"{case}_0000.nii.gz")],
                    "mask": f"{case}_mask.nii.gz",
                    "probability": f"{case}_probability.nii.gz",
                    "problem": "",
                }
            )
            cohort.append(
                {"scan": case, "region": "whole brain", "hemisphere": "both", "count": count, "volume_mm3": volume}
            )
            if tables:
                nib.save(nib.Nifti1Image(labels, affine), out / f"{case}_clusters.nii.gz")
                _write_tables(out, case, labels, affine)
        write_table(out / "volumes.tsv", volumes)
        record = {
            "inputs": str(scans),
            "models": [{"path": "model", "sha256": "ab" * 32}],
            "threshold": 0.5,
            "software": {"mednext_jax": "0.1.0"},
        }
        (out / "prediction.json").write_text(json.dumps(record))
        if listed:
            (out / "scans.json").write_text(json.dumps({"scans": listing}))
        if tables:
            write_table(out / "pvs.tsv", cohort)
            about = {"length_mm": {"Description": "Path along the skeleton", "Units": "mm"}}
            (out / "clusters.json").write_text(json.dumps(about))
        return out

    return write


def _write_tables(out, case, labels, affine):
    rows, volume = [], abs(np.linalg.det(affine))
    for label in np.unique(labels[labels > 0]):
        voxels = np.argwhere(labels == label)
        x, y, z = nib.affines.apply_affine(affine, voxels).mean(0)
        rows.append(
            {
                "cluster": label,
                "region": "white matter",
                "hemisphere": "right" if x > 0 else "left",
                "x_mm": f"{x:.2f}",
                "y_mm": f"{y:.2f}",
                "z_mm": f"{z:.2f}",
                "voxels": len(voxels),
                "volume_mm3": len(voxels) * volume,
                "length_mm": 2.5 * len(voxels),
                "probability_mean": 0.75,
                "counted": int(label != 2),
                "touches_csf_or_cortex": int(label == 3),
                "width_mm": "n/a",
            }
        )
    write_table(out / f"{case}_clusters.tsv", rows)
    regions = []
    for region, side in (("whole brain", "both"), *(("white matter", side) for side in ("both", "left", "right"))):
        of = [row for row in rows if row["hemisphere"] == side or side == "both"]
        counted = [row for row in of if row["counted"]]
        total = sum(row["volume_mm3"] for row in counted)
        regions.append({"region": region, "hemisphere": side, "count": len(counted), "count_all": len(of)})
        regions[-1] |= {"volume_mm3": total, "potter": "n/a", "min_voxels": 2, "min_mm3": 0.0}
    write_table(out / f"{case}_regions.tsv", regions)


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium that pages are opened in; skips where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api")
    program = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("there is no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()
