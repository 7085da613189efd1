"""The BIDS App: a valid derivative, participants in calls of their own, the group, and what is refused."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mednext_jax import main as command_line
from mednext_jax.bids.app import run_bids_app
from mednext_jax.errors import InputError, WorkError
from mednext_jax.inference.predict import predict
from mednext_jax.io.bids_selection import BidsSelection
from mednext_jax.io.table_file import read_table
from mednext_jax.report.report import report
from mednext_jax.weights import packaged

pytestmark = pytest.mark.core

MASKS = (
    "sub-01/ses-1/anat/sub-01_ses-1_acq-hires_run-1_space-orig_label-PVS_mask.nii.gz",
    "sub-01/ses-2/anat/sub-01_ses-2_space-orig_label-PVS_mask.nii.gz",
    "sub-02/anat/sub-02_space-orig_label-PVS_mask.nii.gz",
)


def segmenting(data_set, model, **options):
    """`segment` of `run_bids_app`, with pages, as the command has it."""

    def segment(folder, chosen):
        after = lambda out, cases: report(out, cases=cases)  # noqa: E731
        return predict(data_set, folder, model, tta=False, chosen=chosen, after=after, **options)

    return segment


def masks_in(output):
    return tuple(sorted(p.relative_to(output).as_posix() for p in output.glob("sub-*/**/*_mask.nii.gz")))


def validate(folder):
    """(errors, warnings) of the BIDS validator: the codes of its issues with the files."""
    program = shutil.which("bids-validator-deno", path=Path(sys.executable).parent)
    if program is None:
        pytest.skip("the BIDS validator is not installed")
    done = subprocess.run([program, folder, "--format", "json"], capture_output=True, text=True, timeout=300)
    issues = json.loads(done.stdout)["issues"]["issues"]
    said = {severity: [] for severity in ("error", "warning")}
    for issue in issues:
        said.setdefault(issue["severity"], []).append((issue["code"], issue.get("subCode"), issue.get("location")))
    return said["error"], said["warning"]


def test_participants_and_group_make_a_valid_derivative(data_set, model, tmp_path, capsys):
    out = data_set / "derivatives" / "pvs"

    def bids(level, *more):
        return command_line.main([str(a) for a in ("bids", data_set, out, level, *more)])

    options = ("-m", model, "--no-tta", "--uncertainty")
    assert bids("participant", *options, "--participant-label", "01", "--session-id", "ses-2") == 0
    assert masks_in(out) == MASKS[1:2]
    assert bids("participant", *options, "--participant_label", "sub-01", "02") == 0
    assert masks_in(out) == MASKS
    assert bids("group") == 0
    assert read_table(out / "volumes.tsv")[0][0] == "scan"
    cases = [row["scan"] for row in read_table(out / "volumes.tsv")[1]]
    assert cases == ["sub-01_ses-1_acq-hires_run-1", "sub-01_ses-2", "sub-02"]
    assert {row["scan"] for row in read_table(out / "pvs.tsv")[1]} == set(cases)
    page = (out / "report.html").read_text()
    pages = [mask.replace("_mask.nii.gz", "_report.html") for mask in MASKS]
    assert all(path in page and (out / path).is_file() for path in pages)
    assert "../../../report.html" in (out / pages[0]).read_text()
    about = json.loads((out / "dataset_description.json").read_text())
    assert about["GeneratedBy"][0]["Name"] == "mednext-jax" and about["DatasetType"] == "derivative"
    assert about["SourceDatasets"] == [{"URL": data_set.as_uri(), "DOI": "doi:10.1234/x"}]
    side_car = json.loads((out / MASKS[0].replace(".nii.gz", ".json")).read_text())
    assert side_car["Sources"] == [f"bids:raw:{MASKS[0].split('_space')[0]}_T2w.nii.gz"]
    mask = nib.load(out / MASKS[2])
    np.testing.assert_array_equal(mask.affine, nib.load(data_set / "sub-02/anat/sub-02_T2w.nii.gz").affine)
    errors, warnings = validate(out)
    assert not errors
    assert {code for code, _, _ in warnings} <= {"JSON_KEY_RECOMMENDED", "SIDECAR_KEY_RECOMMENDED", "TOO_FEW_AUTHORS"}


def test_the_validator_finds_a_wrong_name(data_set, model, tmp_path):
    out = tmp_path / "out"
    run_bids_app(data_set, out, "participant", segmenting(data_set, model), selection=BidsSelection.of(["02"]))
    (out / MASKS[2]).rename(out / MASKS[2].replace("label-PVS_mask", "pvs_mask"))
    assert validate(out)[0]


def test_the_same_call_goes_on_and_another_filter_is_another_run(data_set, model, tmp_path, capsys):
    out = tmp_path / "out"
    call = functools.partial(run_bids_app, data_set, out, "participant", segmenting(data_set, model))
    call()
    before = {path: os.stat(out / path).st_mtime_ns for path in masks_in(out)}
    capsys.readouterr()
    call()
    assert "3 done before" in capsys.readouterr().out
    assert before == {path: os.stat(out / path).st_mtime_ns for path in masks_in(out)}
    (tmp_path / "filter.json").write_text(json.dumps({"t2w": {"acquisition": "hires"}}))
    call(selection=BidsSelection.of(filter_file=tmp_path / "filter.json"))
    assert "1 scan," in capsys.readouterr().out and len(list((out / "logs").iterdir())) == 2
    run_bids_app(data_set, out, "group", segmenting(data_set, model))
    assert len(read_table(out / "volumes.tsv")[1]) == 3


def test_what_is_done_is_placed_when_a_scan_fails(data_set, model, tmp_path):
    broken = data_set / "sub-02/anat/sub-02_T2w.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-200])
    with pytest.raises(WorkError, match="damaged"):
        run_bids_app(data_set, tmp_path / "out", "participant", segmenting(data_set, model))
    assert masks_in(tmp_path / "out") == MASKS[:2]
    run_bids_app(data_set, tmp_path / "out", "group", segmenting(data_set, model))
    assert "sub-02" in (tmp_path / "out" / "report.html").read_text()  # with the reason


def test_calls_for_other_participants_share_the_folder_at_the_same_time(data_set, tmp_path):
    out = tmp_path / "out"

    def begin(folder, chosen):
        (case,) = (f"sub-{label}" for label in chosen.participants)
        mask = folder / case / "anat" / f"{case}_space-orig_label-PVS_mask.nii.gz"
        mask.parent.mkdir(parents=True)
        mask.touch()
        (folder / "prediction.json").write_text('{"models": [{"sha256": "a"}]}')

    def first(folder, chosen):
        begin(folder, chosen)
        run_bids_app(data_set, out, "participant", begin, selection=BidsSelection.of(["02"]))  # while 01 is at work
        assert [path.name for path in out.glob("sub-*")] == ["sub-02"]

    run_bids_app(data_set, out, "participant", first, selection=BidsSelection.of(["01"]))
    assert sorted(path.name for path in out.glob("sub-*")) == ["sub-01", "sub-02"]


def test_other_settings_and_models_are_refused(data_set, model, tmp_path):
    out = tmp_path / "out"
    one = BidsSelection.of(["02"])
    run_bids_app(data_set, out, "participant", segmenting(data_set, model), selection=one, settings={"threshold": 0.5})
    with pytest.raises(InputError, match=r"other settings \(threshold\)"):
        run_bids_app(data_set, out, "participant", pytest.fail, selection=one, settings={"threshold": 0.4})
    record = out / "logs" / "sub-02" / "prediction.json"
    record.write_text(record.read_text().replace('"sha256": "', '"sha256": "0'))
    with pytest.raises(InputError, match="other models"):
        run_bids_app(
            data_set,
            out,
            "participant",
            segmenting(data_set, model),
            selection=BidsSelection.of(["01"], ["2"]),
            settings={"threshold": 0.5},
        )
    assert masks_in(out) == MASKS[2:]


@pytest.mark.parametrize(
    ("out", "words"),
    [
        (".", "among the data set's own files"),
        ("sub-01", "among the data set's own files"),
        ("sourcedata/pvs", "among the data set's own files"),
        ("derivatives/other", "exists already"),
    ],
)
def test_an_output_folder_that_is_not_for_us(data_set, out, words):
    (data_set / "derivatives" / "other").mkdir(parents=True)
    (data_set / "derivatives" / "other" / "dataset_description.json").write_text("{}")
    with pytest.raises(InputError, match=words):
        run_bids_app(data_set, data_set / out, "participant", pytest.fail)


def test_wrong_calls(data_set, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="no BIDS data set"):
        run_bids_app(tmp_path / "nowhere", out, "participant", pytest.fail)
    with pytest.raises(InputError, match="no such participant"):
        run_bids_app(data_set, out, "participant", pytest.fail, selection=BidsSelection.of(["9"]))
    with pytest.raises(InputError, match="No participant is in the derivative"):
        run_bids_app(data_set, out, "group", pytest.fail)
    with pytest.raises(InputError, match="for the level participant"):
        run_bids_app(data_set, out, "group", pytest.fail, selection=BidsSelection.of(["01"]))
    assert not out.exists()
    with pytest.raises(InputError, match="no part of a name"):
        BidsSelection.of(["../../etc"])


def test_participants_are_segmented_without_a_model_by_the_packaged_one(data_set, model, tmp_path, monkeypatch):
    monkeypatch.setattr(packaged, "FOLDER", model)
    monkeypatch.chdir(tmp_path)
    call = ["bids", str(data_set), "out", "participant", "--participant-label", "02", "--no-tta", "--quiet"]
    assert command_line.main(call) == 0
    assert Path("out", MASKS[2]).is_file()
