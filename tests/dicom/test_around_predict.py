"""`predict` on DICOM: series in, objects out, and what is refused before anything is computed."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from mednext_jax import main as command_line
from mednext_jax.dicom.around_predict import HIDDEN, dicom_scan
from mednext_jax.errors import InputError
from tests.bids.conftest import model  # noqa: F401

pytestmark = pytest.mark.core


def run(*arguments):
    return command_line.main([str(one) for one in arguments])


def test_a_series_is_segmented_and_gets_its_objects(make_series, tmp_path, model, capsys):  # noqa: F811
    hd = pytest.importorskip("highdicom")
    pytest.importorskip("dcm2niix")
    made, out = make_series("Patient 7", plane="oblique"), tmp_path / "out"
    make_series("Patient 7", number=5, multi_frame=True, seed=1)
    call = ("predict", "-i", made.folder, "-o", out, "-m", model, "--no-tta", "--dicom-seg")
    assert run(*call) == 2
    assert "series 3 (t2_space" in (said := capsys.readouterr().err) and "--series" in said and not out.exists()
    assert run(*call, "--series", "3") == 0
    mask = nib.load(out / "Patient 7_mask.nii.gz")
    seg = hd.seg.segread(out / "Patient 7_seg.dcm")
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == made.uid
    assert seg.get_volume(combine_segments=False).array.sum() == np.asarray(mask.dataobj).sum() > 0
    report = hd.sr.srread(out / "Patient 7_report.dcm")
    measured = report.content.get_volumetric_roi_measurement_groups()[0].get_measurements()
    (row,) = [line.split("\t") for line in (out / "volumes.tsv").read_text().splitlines()[1:]]
    assert int(row[1]) == measured[0].value
    before = (out / "Patient 7_seg.dcm").read_bytes()
    assert run(*call, "--series", "3") == 0  # goes on
    assert "is there" in capsys.readouterr().out and (out / "Patient 7_seg.dcm").read_bytes() == before
    assert run(*call, "--series", "3", "--force") == 0  # with other masks the objects are made again
    assert (out / "Patient 7_seg.dcm").stat().st_mtime_ns > (out / "Patient 7_mask.nii.gz").stat().st_mtime_ns
    dry = [tmp_path / "dry" if a == out else a for a in call]
    assert run(*dry, "--series", "3", "--dry-run") == 0 and not (tmp_path / "dry").exists()
    # The scan that was converted, given as NIfTI, on its series and on another.
    (scan,) = (out / HIDDEN).glob("*/*.nii")
    again = ("predict", "-i", scan, "-m", model, "--no-tta", "--dicom-seg", made.folder)
    assert run(*again, "-o", tmp_path / "again", "--series", "3") == 0
    assert (tmp_path / "again" / "Patient 7_seg.dcm").is_file()
    assert run(*again, "-o", tmp_path / "other", "--series", "5") == 2
    assert "does not lie on the DICOM series" in capsys.readouterr().err
    assert not list((tmp_path / "other").glob("*.dcm"))


def test_wrong_calls_leave_nothing(make_series, tmp_path):
    pytest.importorskip("highdicom")
    made, out = make_series("d", multi_frame=True), tmp_path / "out"

    def refused(words, source, *more):
        with pytest.raises(InputError, match=words), dicom_scan(source, out, *more):
            pytest.fail("it was taken")

    refused("no such DICOM series", made.folder, ["4"])
    refused("written on that series", made.folder, [], made.folder)
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)), tmp_path / "a.nii")
    refused("no series", tmp_path / "a.nii", ["3"])
    refused("not clear", tmp_path / "a.nii", [], True)
    refused("not clear", tmp_path, [], made.folder)
    assert not out.exists()
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    refused("exists already", made.folder)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_a_prediction_that_fails_leaves_no_converted_scan(make_series, tmp_path):
    pytest.importorskip("dcm2niix")
    made, out = make_series("d", multi_frame=True), tmp_path / "new" / "out"
    with pytest.raises(InputError, match="later"), dicom_scan(made.folder / "3.dcm", out) as scan:
        assert scan.path.name == "3.nii" and scan.path.is_file() and scan.series is None
        raise InputError("later")
    assert not out.exists()


def test_channels_are_series_in_their_order(make_series, tmp_path):
    pytest.importorskip("dcm2niix")
    made = make_series("d", multi_frame=True)
    make_series("d", number=5, multi_frame=True, seed=1)
    with dicom_scan(made.folder, tmp_path / "out", ["5", "3"]) as scan:
        first, second = (nib.load(p).get_fdata() for p in sorted(scan.path.parent.iterdir()))
    assert scan.path.name == "d_0000.nii" and sorted(second.ravel()) == sorted(made.voxels.ravel())
    assert sorted(first.ravel()) != sorted(made.voxels.ravel())
