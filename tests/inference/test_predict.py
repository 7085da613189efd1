"""Many scans to files: names, tables, parts, what is refused, and one bad scan among good ones."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil

import jax
import nibabel as nib
import numpy as np
import pytest

from mednext_jax import main as command_line
from mednext_jax.errors import InputError, WorkError
from mednext_jax.inference.outputs import Outputs
from mednext_jax.inference.predict import predict
from mednext_jax.inference.predictor import Predictor
from mednext_jax.io.scan_list import decided_by, read_scan_list
from mednext_jax.measure.clusters import label_clusters
from mednext_jax.weights import packaged
from mednext_jax.weights.directory import load_model, save_model

pytestmark = pytest.mark.core


def table(path):
    return list(csv.DictReader(path.open(), delimiter="\t"))


def test_a_folder(models, scans, tmp_path, capsys):
    rows = predict(scans, tmp_path / "out", models[0], tta=False)
    out = tmp_path / "out"
    kinds = ("mask.nii.gz", "probability.nii.gz", "clusters.nii.gz", "clusters.tsv", "regions.tsv")
    names = [f"case{i}_{kind}" for i in range(3) for kind in kinds]
    cohort = ["volumes.tsv", "prediction.json", "scans.json", "pvs.tsv", "pvs.json", "clusters.json"]
    assert sorted(p.name for p in out.iterdir()) == sorted([*names, *cohort, "predict.log", "records"])
    assert sorted(p.name for p in (out / "records").iterdir()) == [f"case{i}.json" for i in range(3)]
    predictor = Predictor(models[0], tta=False)
    for i, row in enumerate(table(out / "volumes.tsv")):
        source, mask = nib.load(scans / f"case{i}_0000.nii.gz"), nib.load(out / f"case{i}_mask.nii.gz")
        probability = nib.load(out / f"case{i}_probability.nii.gz")
        assert mask.shape == source.shape and mask.get_data_dtype() == np.uint8
        assert probability.get_data_dtype() == np.float32
        for field in ("sform_code", "qform_code", "xyzt_units", "srow_x", "srow_y", "srow_z", "qoffset_x"):
            np.testing.assert_array_equal(mask.header[field], source.header[field])
        alone = predictor(scans / f"case{i}_0000.nii.gz")
        np.testing.assert_array_equal(np.asarray(probability.dataobj), np.asarray(alone.probability.dataobj))
        voxels = np.asarray(mask.dataobj)
        assert row["scan"] == f"case{i}" and int(row["count"]) == label_clusters(voxels)[1] > 0
        assert float(row["volume_mm3"]) == pytest.approx(voxels.sum() * 1.0 * 1.1 * 0.9, abs=1e-3)
    assert len(rows) == 3
    about = json.loads((out / "prediction.json").read_text())
    assert about["threshold"] == 0.5 and len(about["models"][0]["sha256"]) == 64
    printed = capsys.readouterr().out
    assert "[3/3] case" in printed and "scans an hour" in printed


TABLE = ({"contrast": "T1w", "largest_voxel": 2.0, "threshold": 0.25},)


def test_each_scan_s_threshold_is_recorded(variant, save_scan, tmp_path):
    model = variant(channel_names=("MRI",), thresholds=TABLE, threshold=0.6)
    for number, name in enumerate(("sub-1_T1w", "sub-2")):
        save_scan(tmp_path / "scans" / f"{name}.nii.gz", seed=number)
    out = tmp_path / "out"
    predict(tmp_path / "scans", out, model, tta=False)
    about = json.loads((out / "prediction.json").read_text())
    assert about["threshold"] == 0.6 and about["thresholds"] == [dict(TABLE[0])]
    for case, threshold in (("sub-1_T1w", 0.25), ("sub-2", 0.6)):
        assert json.loads((out / "records" / f"{case}.json").read_text())["threshold"] == threshold
        mask, probability = (nib.load(out / f"{case}_{kind}.nii.gz") for kind in ("mask", "probability"))
        np.testing.assert_array_equal(np.asarray(mask.dataobj), np.asarray(probability.dataobj) > threshold)
        assert decided_by(out, case, about) == threshold
    # the run goes on with the same table, and with no other
    assert len(predict(tmp_path / "scans", out, model, tta=False)) == 2
    other = variant(channel_names=("MRI",), thresholds=({**TABLE[0], "threshold": 0.3},), threshold=0.6)
    with pytest.raises(InputError, match="thresholds"):
        predict(tmp_path / "scans", out, other, tta=False)
    predict(tmp_path / "scans", tmp_path / "own", model, 0.4, tta=False)
    about = json.loads((tmp_path / "own" / "prediction.json").read_text())
    assert about["threshold"] == 0.4 and "thresholds" not in about


@pytest.fixture
def packaged_one(models, tmp_path, monkeypatch):
    """A small model in the place of the packaged one."""
    model = load_model(models[0])
    recipe = dataclasses.replace(model.recipe, channel_names=("MRI",), thresholds=TABLE)
    folder = save_model(tmp_path / "packaged", model.config, model.params, recipe, {"notice": "not\x1b for patients"})
    monkeypatch.setattr(packaged, "FOLDER", folder)
    return folder


def test_without_a_model_the_packaged_one_is_taken_and_told_about(packaged_one, scans, tmp_path, capsys):
    scan = scans / "case0_0000.nii.gz"
    rows = predict(scan, tmp_path / "out", tta=False)
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if "for patients" in line]
    assert line == "without_labels: not\\x1b for patients"
    about = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert about["models"][0]["path"] == str(packaged_one) and about["models"][0]["notice"].startswith("not")
    assert about["run"]["models"][0]["given"] == "without_labels"
    named = predict(scan, tmp_path / "named", "without_labels", tta=False)
    assert [row["count"] for row in named] == [row["count"] for row in rows]
    predict(scan, tmp_path / "dry", tta=False, dry_run=True)
    assert "without_labels: not" in capsys.readouterr().out


def test_the_command_without_a_model(packaged_one, scans, save_scan, tmp_path, capsys):
    def run(*arguments):
        return command_line.main(["predict", "--no-tta", *map(str, arguments)])

    save_scan(tmp_path / "sub-1_PD.nii.gz")
    assert run("-i", tmp_path / "sub-1_PD.nii.gz", "-o", tmp_path / "out") == 0
    assert "in no contrast that the model knows" in capsys.readouterr().out
    # two channels for a model of one, a model that is not there, and 4-D
    for channel in range(2):
        save_scan(tmp_path / "two" / f"a_{channel:04d}.nii.gz")
    assert run("-i", tmp_path / "two", "-o", tmp_path / "no") == 2
    assert "has not the channels of the model" in capsys.readouterr().err
    assert run("-i", scans, "-o", tmp_path / "no", "-m", tmp_path / "without_label") == 2
    assert "does not exist" in capsys.readouterr().err
    nib.save(nib.Nifti1Image(np.ones((8, 8, 8, 3), np.float32), np.eye(4)), tmp_path / "four.nii.gz")
    assert run("-i", tmp_path / "four.nii.gz", "-o", tmp_path / "no") == 2
    assert "4" in capsys.readouterr().err and not (tmp_path / "no").exists()


def test_a_model_of_brain_extracted_scans_takes_their_masks(models, variant, scans, tmp_path):
    extracted = variant(optional_steps=("brain",))
    with pytest.raises(InputError, match="--brain-masks MASKS"):
        predict(scans / "case0_0000.nii.gz", tmp_path / "out", extracted, tta=False)
    (tmp_path / "masks" / "sub").mkdir(parents=True)
    with pytest.raises(InputError, match="no brain mask"):
        predict(scans / "case0_0000.nii.gz", tmp_path / "out", extracted, tta=False, brain_masks=tmp_path / "masks")
    scan = nib.load(scans / "case0_0000.nii.gz")
    brain = np.zeros(scan.shape, np.uint8)
    brain[3:20, 4:20, 2:17] = 1
    nib.save(nib.Nifti1Image(brain, scan.affine), tmp_path / "masks" / "sub" / "case0_desc-brain_mask.nii.gz")
    predict(scans / "case0_0000.nii.gz", tmp_path / "out", extracted, tta=False, brain_masks=tmp_path / "masks")
    nib.save(nib.Nifti1Image(np.asarray(scan.dataobj) * brain, scan.affine), tmp_path / "by_hand.nii.gz")
    expected = Predictor(models[0], tta=False)(tmp_path / "by_hand.nii.gz").probability
    predict(scans / "case0_0000.nii.gz", tmp_path / "any", models[0], tta=False, brain_masks=tmp_path / "masks")
    for out in ("out", "any"):  # a model that was not trained with masks takes them too
        found = nib.load(tmp_path / out / "case0_probability.nii.gz")
        np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(expected.dataobj))


def test_one_scan_with_an_ensemble(models, scans, tmp_path):
    predict(scans / "case1_0000.nii.gz", tmp_path / "out", models, threshold=0.7, tta=False)
    mask, probability = (
        np.asarray(nib.load(tmp_path / "out" / f"case1_{kind}.nii.gz").dataobj) for kind in ("mask", "probability")
    )
    np.testing.assert_array_equal(mask, probability > 0.7)


def test_parts_share_the_scans_and_the_folder(models, scans, tmp_path):
    for k in (1, 2):
        predict(scans, tmp_path / "out", models[0], tta=False, part=(k, 2))
    names = [[row["scan"] for row in table(tmp_path / "out" / f"volumes_part-{k}-of-2.tsv")] for k in (1, 2)]
    assert names == [["case0", "case2"], ["case1"]]
    assert len(list((tmp_path / "out").glob("*_mask.nii.gz"))) == 3
    assert [row["scan"] for row in table(tmp_path / "out" / "pvs_part-2-of-2.tsv")] == ["case1"]
    assert [row["scan"] for row in table(tmp_path / "out" / "pvs.tsv")] == ["case0", "case1", "case2"]
    with pytest.raises(InputError, match=r"not overwritten.* \(mirror_axes\)"):
        predict(scans, tmp_path / "out", models[0], part=(2, 2))


def test_bids_derivative(models, scans, tmp_path):
    anat = tmp_path / "raw" / "sub-01" / "ses-2" / "anat"
    anat.mkdir(parents=True)
    shutil.copy(scans / "case0_0000.nii.gz", anat / "sub-01_ses-2_T2w.nii.gz")
    out = tmp_path / "raw" / "derivatives" / "pvs"
    predict(tmp_path / "raw", out, models[0], tta=False)
    start = "sub-01/ses-2/anat/sub-01_ses-2_space-orig"
    stem = f"{start}_label-PVS"
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()) == sorted(
        [f"{stem}_{kind}" for kind in ("mask.json", "mask.nii.gz", "probseg.json", "probseg.nii.gz")]
        + [f"{start}_seg-PVS_dseg.{ending}" for ending in ("nii.gz", "tsv", "json")]
        + [f"{start}_desc-pvs_stats.tsv"]
        + ["dataset_description.json", "prediction.json", "volumes.tsv", "pvs.tsv", "pvs.json", "clusters.json"]
        + [".bidsignore", "scans.json", "predict.log", "records/sub-01_ses-2.json"]
    )
    labels = nib.load(out / f"{start}_seg-PVS_dseg.nii.gz")
    (first, *_) = clusters = table(out / f"{start}_seg-PVS_dseg.tsv")
    assert labels.get_fdata().max() == len(clusters) and first["index"] == first["cluster"] == "1"
    side_car = json.loads((out / f"{start}_seg-PVS_dseg.json").read_text())
    assert set(first) - {"index", "name"} <= set(side_car) and side_car["length_mm"]["Units"] == "mm"
    about = json.loads((out / f"{stem}_mask.json").read_text())
    assert about["Sources"] == ["bids:raw:sub-01/ses-2/anat/sub-01_ses-2_T2w.nii.gz"]
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative" and description["GeneratedBy"][0]["Name"] == "mednext-jax"


def test_what_is_wrong_with_the_call_is_told_before_anything_is_written(models, scans, tmp_path):
    out = tmp_path / "out"
    broken = shutil.copytree(models[0], tmp_path / "broken")
    (broken / "model.safetensors").unlink()
    for arguments, said in [
        ((scans, tmp_path / "x.nii.gz", models[0]), "folder, not a file"),
        ((tmp_path / "absent", out, models[0]), "does not exist"),
        ((scans, out, tmp_path / "absent"), "model"),
        ((scans, out, broken), "model.safetensors"),
    ]:
        with pytest.raises(InputError, match=said):
            predict(*arguments)
    with pytest.raises(InputError, match="part"):
        predict(scans, out, models[0], part=(3, 2))
    assert not out.exists()
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="not overwritten"):
        predict(scans, out, models[0])
    assert [p.name for p in out.iterdir()] == ["mine.txt"]


def test_a_bad_scan_does_not_stop_the_others(models, scans, tmp_path):
    folder = shutil.copytree(scans, tmp_path / "scans")
    image = nib.load(folder / "case1_0000.nii.gz")
    values = np.asarray(image.dataobj, np.float32)
    values[3, 4, 5] = np.nan
    nib.save(nib.Nifti1Image(values, image.affine), folder / "case1_0000.nii.gz")
    with pytest.raises(WorkError, match=r"case1_0000\.nii\.gz"):
        predict(folder, tmp_path / "out", models[0], tta=False)
    assert [row["scan"] for row in table(tmp_path / "out" / "volumes.tsv")] == ["case0", "case2"]
    assert not list((tmp_path / "out").glob("case1*"))
    (failed,) = table(tmp_path / "out" / "failed.tsv")
    assert (failed["scan"], failed["file"], failed["stage"]) == ("case1", str(folder / "case1_0000.nii.gz"), "read")
    assert "not finite" in failed["message"] and failed["hint"]
    listed = {scan.case: scan for scan in read_scan_list(tmp_path / "out" / "scans.json")}
    assert [case for case, scan in listed.items() if scan.problem] == ["case1"]
    assert "not finite" in listed["case1"].problem
    assert listed["case0"].files == ((folder / "case0_0000.nii.gz").resolve().as_posix(),)
    assert (tmp_path / "out" / listed["case0"].mask).is_file()


def test_a_second_run_tries_only_what_failed(models, scans, tmp_path, monkeypatch, capsys):
    infer, tried = Predictor.infer, []

    def fails(self, loaded, tiles=None):
        tried.append(loaded.grid.shape)
        if loaded.grid.shape == (20, 30, 17) and len(tried) <= 3:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
        return infer(self, loaded)

    monkeypatch.setattr(Predictor, "infer", fails)
    with pytest.raises(WorkError, match="RESOURCE_EXHAUSTED"):
        predict(scans, tmp_path / "out", models[0], tta=False)
    (failed,) = table(tmp_path / "out" / "failed.tsv")
    assert (failed["scan"], failed["stage"]) == ("case1", "segment") and "one tile at once" in failed["hint"]
    rows = predict(scans, tmp_path / "out", models[0], tta=False)
    assert [row["scan"] for row in rows] == ["case0", "case1", "case2"] and tried[3:] == [(20, 30, 17)]
    assert not (tmp_path / "out" / "failed.tsv").exists()
    assert "2 done before" in capsys.readouterr().out
    listed = read_scan_list(tmp_path / "out" / "scans.json")
    assert len(listed) == 3 and not any(scan.problem for scan in listed)


def test_a_disk_that_fills_in_the_middle_loses_nothing_that_is_done(models, scans, tmp_path, monkeypatch):
    out, replace, full = tmp_path / "out", Outputs._replace, [False]

    def fills(self, name, text):
        full[0] |= name == "volumes.tsv" and "case" in text  # from the first row on, whichever scan's that is
        if full[0] and "case1" in text:
            raise OSError(28, "No space left on device")
        replace(self, name, text)

    monkeypatch.setattr(Outputs, "_replace", fills)
    with pytest.raises(WorkError, match="No space left on device") as caught:
        predict(scans, out, models[0], tta=False)
    assert "make room" in str(caught.value) and "case1_0000.nii.gz" in str(caught.value)
    assert sorted(p.name for p in (out / "records").iterdir()) == ["case0.json", "case2.json"]
    assert not list(out.glob("case1*")) and not list(out.rglob(".*"))
    monkeypatch.undo()
    rows = predict(scans, out, models[0], tta=False)
    assert [row["scan"] for row in rows] == ["case0", "case1", "case2"] and not (out / "failed.tsv").exists()


def test_force_makes_all_again_with_other_settings(models, scans, tmp_path):
    out = tmp_path / "out"
    predict(scans, out, models[0], tta=False)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")}
    with pytest.raises(InputError, match="--force"):
        predict(scans, out, models[0], tta=False, threshold=0.7)
    (out / "mine.txt").write_text("keep")
    fewer = shutil.copytree(scans, tmp_path / "fewer")
    (fewer / "case2_0000.nii.gz").unlink()
    predict(fewer, out, models[0], tta=False, threshold=0.7, force=True)
    assert [row["scan"] for row in table(out / "volumes.tsv")] == ["case0", "case1"]
    assert json.loads((out / "prediction.json").read_text())["threshold"] == 0.7
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")}
    assert all(before[name] != after[name] for name in after) and not list(out.rglob("case2*"))
    assert (out / "mine.txt").read_text() == "keep"
    predict(fewer, out, models[0], tta=False, threshold=0.7)  # the settings of now go on
    assert after == {path.name: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="not overwritten"):  # predict did not write it
        predict(scans, tmp_path / "other", models[0], tta=False, force=True)


def test_an_output_inside_the_input_is_not_taken_for_scans(models, scans, tmp_path):
    folder = shutil.copytree(scans, tmp_path / "scans")
    for _ in range(2):
        rows = predict(folder, folder / "out", models[0], tta=False)
        assert [row["scan"] for row in rows] == ["case0", "case1", "case2"]
    with pytest.raises(InputError, match="not overwritten"):
        predict(folder, folder, models[0], tta=False)
    masks = tmp_path / "masks"
    masks.mkdir()
    for i in range(3):
        image = nib.load(scans / f"case{i}_0000.nii.gz")
        nib.save(nib.Nifti1Image(np.ones(image.shape, np.uint8), image.affine), masks / f"case{i}.nii.gz")
    with pytest.raises(InputError, match="brain masks"):
        predict(folder, masks / "out", models[0], tta=False, brain_masks=masks)
    assert not (masks / "out").exists()


def test_names_that_are_hard(models, save_scan, tmp_path):
    """Spaces, unicode, a leading dash and an ending in capitals are names; one name in two folders is none of them."""
    folder = tmp_path / "two words"
    for name in ("-dash.nii.gz", "a b.nii.gz", "fäll.nii.gz", "UP.NII.GZ"):
        save_scan(folder / "lower.nii.gz").rename(folder / name)
    save_scan(folder / "below" / "a b.nii.gz")
    out = tmp_path / "öut put"
    rows = predict(folder, out, models[0], tta=False)
    assert [row["scan"] for row in rows] == ["-dash", "UP", "a b", "fäll"]
    assert all((out / f"{row['scan']}_mask.nii.gz").is_file() for row in rows)
    assert len(predict(folder, out, models[0], tta=False)) == 4
    (folder / "UP.nii.gz").write_bytes((folder / "UP.NII.GZ").read_bytes())
    with pytest.raises(WorkError, match="Two files are of one scan"):
        predict(folder, tmp_path / "twice", models[0], tta=False)


def test_what_comes_after_finds_all_outputs_whole_and_hides_no_failure(models, scans, tmp_path):
    folder = shutil.copytree(scans, tmp_path / "scans")
    (folder / "case1_0000.nii.gz").write_bytes(b"damaged")
    seen = []

    def after(out, cases):
        seen.extend([cases, sorted(p.name for p in out.glob("*.*") if "case" not in p.name)])

    with pytest.raises(WorkError, match="case1"):
        predict(folder, tmp_path / "out", models[0], tta=False, after=after)
    tables = ["clusters.json", "prediction.json", "pvs.json", "pvs.tsv", "scans.json", "volumes.tsv"]
    assert seen == [["case0", "case2"], sorted([*tables, "failed.tsv", "predict.log"])]


def test_whatever_one_scan_fails_of_is_said_at_the_end_and_the_others_are_done(models, scans, tmp_path, monkeypatch):
    failures = {
        (24, 22, 20): jax.errors.JaxRuntimeError("INTERNAL: the device says no"),
        (18, 19, 31): TypeError("no such thing"),
    }
    infer = Predictor.infer

    def fails(self, loaded, tiles=None):
        if loaded.grid.shape in failures:
            raise failures[loaded.grid.shape]
        return infer(self, loaded)

    monkeypatch.setattr(Predictor, "infer", fails)
    with pytest.raises(WorkError) as caught:
        predict(scans, tmp_path / "out", models[0], tta=False)
    assert [row["scan"] for row in table(tmp_path / "out" / "volumes.tsv")] == ["case1"]
    said = str(caught.value)
    for case, why in (("case0", "the device says no"), ("case2", "TypeError: no such thing")):
        assert f"{case}_0000.nii.gz" in said and why in said


def test_a_scan_that_cannot_be_written_does_not_stop_the_others(models, save_scan, tmp_path, capsys):
    long = "n" * (os.pathconf(tmp_path, "PC_NAME_MAX") - len("_mask.nii.gz"))  # its probability's name is too long
    latin1 = os.fsdecode(b"M\xfcller")
    for case in ("a", long, "z", latin1):
        save_scan(tmp_path / "scans" / f"{case}.nii.gz")
    with pytest.raises(WorkError, match="nnnn.nii.gz\n.*File name too long"):
        predict(tmp_path / "scans", tmp_path / "out", models[0], tta=False)
    out = tmp_path / "out"
    with open(out / "volumes.tsv", "rb") as file:
        assert [line.split(b"\t")[0] for line in file][1:] == [b"M\xfcller", b"a", b"z"]
    assert len(list(out.glob("*_mask.nii.gz"))) == len(list(out.glob("*_probability.nii.gz"))) == 3
    printed = capsys.readouterr().out
    assert "M\\udcfcller: " in printed and "failed" in printed and "3 of 4 scans" in printed


def test_what_is_odd_about_headers_is_said_once_a_kind(variant, save_scan, tmp_path, capsys):
    for i in range(3):
        path = save_scan(tmp_path / "scans" / f"far{i}.nii.gz", (20, 20, 40), affine=np.diag([0.5, 0.9, 2.0, 1]))
    image = nib.load(save_scan(tmp_path / "scans" / "forms.nii.gz"))
    image.set_qform(np.diag([-1.0, -1.1, 0.9, 1]), 1)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), tmp_path / "scans" / "forms.nii.gz")
    predict(tmp_path / "scans", tmp_path / "out", variant(spacing=(1.2, 0.9, 1.1)), tta=False, threshold=0.9)
    printed = capsys.readouterr().out
    kinds = ("The voxel size is far", "Sform and qform")
    far, forms = (printed.split(f"[W] {kind}")[1].split("[")[0] for kind in kinds)
    assert far.count("The voxel") == 0 and all(f"far{i}.nii.gz" in far for i in range(3))
    assert "1.1 x 0.9 x 1.2 mm" in far and "0.5 x 0.9 x 2 mm" in far  # x, y, z
    assert "forms.nii.gz" in forms and "far0" not in forms
    assert path.exists() and printed.index("[W]") < printed.index("[1/4]")


def test_files_that_cannot_be_scans_do_not_stop_the_others(models, scans, tmp_path, capsys):
    folder = shutil.copytree(scans, tmp_path / "scans")
    (folder / "empty_0000.nii.gz").write_bytes(b"")
    (folder / "lost_0001.nii.gz").symlink_to(tmp_path / "nowhere")
    (folder / "other.mnc").write_bytes(b"x")
    with pytest.raises(WorkError) as error:
        predict(folder, tmp_path / "out", models[0], tta=False)
    assert [row["scan"] for row in table(tmp_path / "out" / "volumes.tsv")] == ["case0", "case1", "case2"]
    stages = {row["scan"]: row["stage"] for row in table(tmp_path / "out" / "failed.tsv")}
    assert stages == {"empty": "find", "lost": "find"}
    assert "empty_0000.nii.gz" in str(error.value) and "lost_0001.nii.gz" in str(error.value)
    said = capsys.readouterr().out
    assert "other.mnc" in said and "come at the end: empty, lost" in said


def test_scans_of_other_formats_give_nifti_files(models, scans, tmp_path):
    source = nib.load(scans / "case0_0000.nii.gz")
    folder = tmp_path / "scans"
    folder.mkdir()
    shutil.copy(scans / "case0_0000.nii.gz", folder / "a.nii.gz")
    nib.save(nib.MGHImage(np.asarray(source.dataobj, np.float32), source.affine), folder / "b.mgz")
    predict(folder, tmp_path / "out", models[0], tta=False)
    a, b = (nib.load(tmp_path / "out" / f"{case}_probability.nii.gz") for case in "ab")
    np.testing.assert_allclose(b.affine, source.affine, atol=1e-5)
    np.testing.assert_allclose(np.asarray(b.dataobj), np.asarray(a.dataobj), atol=1e-5)  # the affine is rounded


def test_nothing_is_written_for_a_single_bad_scan(models, save_scan, tmp_path):
    path = save_scan(tmp_path / "a.nii.gz")
    path.write_bytes(path.read_bytes()[:-200])  # a truncated gzip stream; its header is whole
    with pytest.raises(InputError, match="damaged"):
        predict(path, tmp_path / "out", models[0], tta=False)
    assert not (tmp_path / "out").exists()


def test_a_scan_too_large_for_the_device_is_a_failure_of_the_work(models, scans, tmp_path, monkeypatch):
    infer = Predictor.infer

    def out_of_memory(self, loaded, tiles=None):
        if loaded.grid.shape == (20, 30, 17):
            raise MemoryError("no room for the scan")
        return infer(self, loaded)

    monkeypatch.setattr(Predictor, "infer", out_of_memory)
    with pytest.raises(WorkError, match="no room"):
        predict(scans, tmp_path / "out", models[0], tta=False)
    assert len(table(tmp_path / "out" / "volumes.tsv")) == 2
