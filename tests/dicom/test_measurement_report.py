"""The structured report: read back with highdicom, with the counts and volumes and the segment that they are of."""

from __future__ import annotations

import pytest

from mednext_jax.dicom.measurement_report import write_measurement_report
from mednext_jax.dicom.object_file import DEMANDED
from mednext_jax.dicom.segmentation import write_segmentation
from mednext_jax.dicom.series import choose_series
from mednext_jax.quantify.quantify import quantify
from tests.dicom.test_segmentation import mask_of

pytestmark = pytest.mark.core


def test_counts_and_volumes_are_read_back(make_series, tmp_path):
    hd = pytest.importorskip("highdicom")
    made = make_series(plane="oblique")
    mask, expected = mask_of(made, tmp_path, above=870)
    series = choose_series(made.folder)
    segmentation = write_segmentation(mask, series, tmp_path / "seg.dcm")
    whole = quantify(mask, min_voxels=3).regions[0]
    assert 0 < whole["count"] < whole["count_all"]
    write_measurement_report(whole, segmentation, series, tmp_path / "sr.dcm")
    report = hd.sr.srread(tmp_path / "sr.dcm")
    (group,) = report.content.get_volumetric_roi_measurement_groups()
    found = {m.name.meaning: (m.value, m.unit.value) for m in group.get_measurements()}
    assert found["Quantity"] == (whole["count_all"], "1")
    assert found["Volume"][0] == pytest.approx(expected.sum() * 1.5 * 0.9 * 0.8, rel=1e-4)
    assert found["Volume"][1] == "mm3"
    assert found["Number of perivascular spaces of at least the smallest size"] == (whole["count"], "1")
    assert group.finding_type.meaning == "Perivascular space"
    assert group.referenced_segment.referenced_sop_instance_uid == segmentation.SOPInstanceUID
    assert {e.keyword for e in report if e.tag.group == 0x0010} <= DEMANDED
    assert b"secret" not in (tmp_path / "sr.dcm").read_bytes()
    assert b"min_voxels: 3" in (tmp_path / "sr.dcm").read_bytes()
