"""Finding a prediction's scans: as recorded, by name, in a BIDS data set, after they have moved."""

from __future__ import annotations

import json
import shutil

import pytest

from mednext_jax.errors import InputError
from mednext_jax.report.predicted import PredictionFolder, participants_folder

pytestmark = pytest.mark.core


def test_scans_are_where_the_prediction_found_them(write_prediction):
    out = write_prediction()
    folder = PredictionFolder.open(out)
    assert [scan.case for scan in folder.scans] == ["sub-01", "sub-02"] and not folder.failed
    assert [scan.image.name for scan in folder.scans] == ["sub-01_0000.nii.gz", "sub-02_0000.nii.gz"]
    assert all(scan.mask.is_file() and scan.probability.is_file() for scan in folder.scans)
    assert folder.record["threshold"] == 0.5
    assert participants_folder(folder) is None
    (out.parent / "data" / "participants.tsv").write_text("participant_id\n")
    assert participants_folder(folder) == out.parent / "data"


def test_an_output_without_a_list_of_scans_is_read_by_names(write_prediction):
    folder = PredictionFolder.open(write_prediction(listed=False))
    assert [scan.image.name for scan in folder.scans] == ["sub-01_0000.nii.gz", "sub-02_0000.nii.gz"]


@pytest.mark.parametrize("name", ["{}.nii.gz", "{}_0000.nii.gz", "deep/{}_T2w.nii", "{}_T1w.nii.gz"])
def test_scans_that_have_moved_are_found_by_name(write_prediction, tmp_path, name):
    out = write_prediction(cases=("sub-01",))
    target = tmp_path / "moved" / name.format("sub-01")
    target.parent.mkdir(parents=True)
    shutil.move(tmp_path / "data" / "imagesTr" / "sub-01_0000.nii.gz", target)
    assert PredictionFolder.open(out).scans[0].image is None
    assert PredictionFolder.open(out, tmp_path / "moved").scans[0].image == target


def test_two_files_of_one_name_are_refused(write_prediction, tmp_path):
    out = write_prediction(cases=("sub-01",))
    for place in ("a", "b"):
        (tmp_path / "moved" / place).mkdir(parents=True)
        (tmp_path / "moved" / place / "sub-01.nii.gz").touch()
    with pytest.raises(InputError, match="Several files could be a case's scan"):
        PredictionFolder.open(out, tmp_path / "moved")


def test_a_bids_derivative_without_a_list(write_prediction):
    out = write_prediction(cases=("sub-01",), listed=False)
    (out / "sub-01" / "anat").mkdir(parents=True)
    for old, new in (("mask", "mask"), ("probability", "probseg")):
        target = out / "sub-01" / "anat" / f"sub-01_space-orig_label-PVS_{new}.nii.gz"
        shutil.move(out / f"sub-01_{old}.nii.gz", target)
    (scan,) = PredictionFolder.open(out).scans
    assert scan.mask.is_file() and scan.probability.is_file()
    assert scan.prefix == "sub-01_space-orig_label-PVS"


def test_what_failed_and_what_waits_is_told(write_prediction):
    out = write_prediction()
    listed = json.loads((out / "scans.json").read_text())
    for case, problem in (("bad", "It is constant."), ("later", "")):
        listed["scans"].append({"case": case, "files": [], "mask": "", "probability": "", "problem": problem})
    (out / "scans.json").write_text(json.dumps(listed))
    folder = PredictionFolder.open(out)
    assert folder.failed == {"bad": "It is constant.", "later": "It has not been segmented yet."}


def test_a_folder_without_a_prediction_is_refused(tmp_path, write_prediction):
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="holds no prediction"):
            PredictionFolder.open(place)
    out = write_prediction()
    with pytest.raises(InputError, match="check --scans"):
        PredictionFolder.open(out, tmp_path / "nowhere")
    (out / "prediction.json").write_text("[]")
    with pytest.raises(InputError, match="record of the prediction"):
        PredictionFolder.open(out)


def test_a_case_that_leads_elsewhere_is_refused(write_prediction):
    out = write_prediction(listed=False)
    (out / "volumes.tsv").write_text("scan\tcount\n../../etc/x\t1\n")
    with pytest.raises(InputError, match="no file name"):
        PredictionFolder.open(out)
    (out / "volumes.tsv").write_text("name\tcount\nx\t1\n")
    with pytest.raises(InputError, match="table of volumes is not understood"):
        PredictionFolder.open(out)
