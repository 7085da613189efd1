"""The share of intervals that hold the truth, of made-up predictions."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from tools.interval_coverage import coverage

pytestmark = pytest.mark.core


def test_coverage(tmp_path):
    mask = np.zeros((8, 8, 12), np.uint8)
    mask[2, 2, 1:7] = mask[5, 5, 1:7] = mask[2, 7, 7] = 1  # two count, of 6 mm3 each
    columns = ["scan", "region", "min_voxels", "min_mm3", "connectivity", "count", "count_low", "count_high"]
    columns += ["volume_mm3", "volume_low_mm3", "volume_high_mm3"]
    rows = [columns]
    for case, high in (("a", 2.0), ("b", 1.9)):
        nib.save(nib.Nifti1Image(mask, np.eye(4)), tmp_path / f"{case}.nii.gz")
        rows.append([case, "whole brain", "5", "0", "26", "1", "0.5", str(high), "6", "1", "12.5"])
        rows.append([case, "white matter", "5", "0", "26", "1", "9", "9", "6", "9", "9"])
    (tmp_path / "pvs.tsv").write_text("\n".join("\t".join(map(str, row)) for row in rows))
    assert coverage(tmp_path, tmp_path) == {"count": [True, False], "volume_mm3": [True, True]}
