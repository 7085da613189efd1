"""`prepare` on real files: what is stored, that nothing is written in vain, and that a stopped run goes on."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.data.case_store import CaseStore
from mednext_jax.errors import InputError
from mednext_jax.io.lock import locked
from mednext_jax.io.nifti import label_volume, read_labels, read_scan, to_volume
from mednext_jax.io.validate import validate
from mednext_jax.prepare.prepare import LOCK, prepare
from mednext_jax.preprocess.clean import clean
from mednext_jax.preprocess.preprocessing import Preprocessing
from mednext_jax.preprocess.trip import Properties, preprocess_scan
from tests.oracles import restore

pytestmark = pytest.mark.core


def stamps(folder):
    """When each stored case was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("cases/*/case.json")}


def test_cases_are_preprocessed_scans(raw_dataset, tmp_path, capsys):
    root = raw_dataset(channels=2)
    meta = prepare(root, tmp_path / "out", splits="kfold:3")
    store = CaseStore.open(tmp_path / "out")
    assert store.meta == meta and store.ids == ("sub-00", "sub-01", "sub-02") and len(store.splits) == 3
    assert meta.brain_extracted is False  # a box in zeros, all of it full
    assert meta.use_mask_for_norm and meta.spacing == (0.8, 0.8, 0.8) and meta.normalisation == ("zscore",) * 2

    images = [read_scan(root / "imagesTr" / f"sub-01_000{c}.nii.gz") for c in range(2)]
    volume, spacing, grid = to_volume(images)
    label = label_volume(read_labels(root / "labelsTr" / "sub-01.nii.gz"), grid)
    expected = preprocess_scan(
        volume,
        spacing,
        Preprocessing(spacing=(0.8,) * 3, normalisation=("zscore",) * 2, use_mask_for_norm=True),
        label,
    )
    stored_image, stored_label = store.read("sub-01")
    np.testing.assert_array_equal(stored_image, expected.volume)
    np.testing.assert_array_equal(stored_label, expected.label)
    voxels = store.foreground("sub-01")[1]
    assert len(voxels) == (stored_label == 1).sum() and (stored_label[tuple(voxels.T)] == 1).all()
    record = store.record("sub-01")
    assert restore(stored_image, Properties.from_dict(record["properties"])).shape == volume.shape
    np.testing.assert_array_equal(record["affine"], images[0].affine)
    assert set(meta.sources["sub-01"]) == {
        "imagesTr/sub-01_0000.nii.gz",
        "imagesTr/sub-01_0001.nii.gz",
        "labelsTr/sub-01.nii.gz",
    }
    printed = capsys.readouterr().out
    assert "3 cases of 3 subjects" in printed and "3 folds" in printed and "inside the non-zero mask" in printed


def test_the_same_call_keeps_what_is_there(raw_dataset, tmp_path, capsys):
    root, out = raw_dataset(), tmp_path / "out"
    prepare(root, out, splits="kfold:3")
    before = stamps(out)
    prepare(root, out, splits="kfold:3")
    assert stamps(out) == before and "(0 written, 3 kept)" in capsys.readouterr().out
    shutil.move(root, tmp_path / "moved")
    (tmp_path / "moved").rename(root)
    prepare(root, out, splits="kfold:3")
    assert stamps(out) == before


def test_a_stopped_run_goes_on(raw_dataset, tmp_path):
    root, out = raw_dataset(), tmp_path / "out"
    prepare(root, out, splits="kfold:3")
    whole = stamps(out)
    # As if killed while the second case was being written.
    (out / "prepared.json").rename(out / "unfinished.json")
    (out / "cases/sub-01/case.json").unlink()
    shutil.rmtree(out / "cases/sub-02")
    prepare(root, out, splits="kfold:3")
    assert stamps(out).keys() == whole.keys() and stamps(out)["sub-00"] == whole["sub-00"]
    CaseStore.open(out).read("sub-01")


def test_changed_inputs_are_made_again_and_removed_ones_go(raw_dataset, tmp_path):
    root, out = raw_dataset(cases=[f"c{i}" for i in range(5)]), tmp_path / "out"
    prepare(root, out, splits="kfold:2")
    before = stamps(out)
    label = nib.load(root / "labelsTr/c1.nii.gz")
    nib.save(nib.Nifti1Image(np.roll(np.asarray(label.dataobj), 1, 2), label.affine), root / "labelsTr/c1.nii.gz")
    for path in root.rglob("c4*"):
        path.unlink()
    content = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps(content | {"numTraining": 4}))
    prepare(root, out, splits="kfold:2")
    after = stamps(out)
    assert {case for case in after if after[case] != before[case]} == {"c1"}
    assert CaseStore.open(out).ids == ("c0", "c1", "c2", "c3") and not (out / "cases/c4").exists()


def test_a_damaged_data_set_writes_nothing(raw_dataset, tmp_path):
    root, out = raw_dataset(), tmp_path / "out"
    (root / "imagesTr/sub-01_0000.nii.gz").write_bytes(b"\x1f\x8b cut")
    with pytest.raises(InputError) as error:
        prepare(root, out, splits="kfold:9")
    assert {problem.what for problem in error.value.problems} >= {
        "The NIfTI file is damaged.",
        "The data set cannot be split this way.",
    }
    assert not out.exists()


def test_other_settings_need_another_output(raw_dataset, tmp_path):
    root, out = raw_dataset(), tmp_path / "out"
    prepare(root, out, spacing=None, splits="kfold:3")
    before = stamps(out)
    for changed in ({"spacing": 1.0}, {"splits": "kfold:2"}):
        with pytest.raises(InputError, match="made with other settings"):
            prepare(root, out, **({"spacing": None, "splits": "kfold:3"} | changed))
    assert stamps(out) == before


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_output_with_something_else_in_it_is_refused(raw_dataset, tmp_path, kind):
    root, out = raw_dataset(), tmp_path / "out"
    if kind == "folder":
        (out / "cases").mkdir(parents=True)
        (out / "cases" / "mine.txt").write_text("keep")
    else:
        out.write_text("keep")
    with pytest.raises(InputError, match="exists already"):
        prepare(root, out, splits="kfold:3")
    assert (out / "cases" / "mine.txt").read_text() == "keep" if kind == "folder" else out.read_text() == "keep"


def test_names_of_a_data_set_steer_no_terminal(raw_dataset, tmp_path, capsys):
    root = raw_dataset()
    description = json.loads((root / "dataset.json").read_text())
    description |= {"name": "A\x1b[2JB", "channel_names": {"0": "T2w\x1b[31m"}}
    (root / "dataset.json").write_text(json.dumps(description))
    prepare(root, tmp_path / "out", splits="kfold:3")
    said = capsys.readouterr().out
    assert "\x1b" not in said and r"A\x1b[2JB" in said and r"T2w\x1b[31m" in said


def test_two_processes_do_not_write_one_data_set(raw_dataset, tmp_path):
    """With other settings, their cases would be mixed under the description of the one that ends last."""
    root, out = raw_dataset(), tmp_path / "out"
    out.mkdir()
    with locked(out / LOCK, "held"), pytest.raises(InputError, match="Another prepare writes into this folder"):
        prepare(root, out, splits="kfold:3", spacing=1.0)
    assert list(out.iterdir()) == []
    prepare(root, out, splits="kfold:3", spacing=2.0)
    with locked(out / LOCK, "held"):
        prepare(root, out, splits="kfold:3", spacing=2.0)  # nothing is to be written
    assert not (out / LOCK).exists()


def test_what_another_process_wrote_while_files_were_verified_is_kept(raw_dataset, tmp_path, monkeypatch):
    root, out = raw_dataset(), tmp_path / "out"

    def verify(*args, **kwargs):
        reports = validate(*args, **kwargs)
        monkeypatch.undo()
        prepare(root, out, splits="kfold:3", spacing=2.0)
        return reports

    monkeypatch.setattr("mednext_jax.prepare.prepare.validate", verify)
    with pytest.raises(InputError, match="made with other settings"):
        prepare(root, out, splits="kfold:3", spacing=1.0)
    assert CaseStore.open(out).meta.spacing == (2.0, 2.0, 2.0)


def test_spacing_none_and_median(raw_dataset, tmp_path):
    root = raw_dataset()
    for case, size in (("sub-00", 1.1), ("sub-01", 0.9)):
        for path in root.rglob(f"{case}*"):
            image = nib.load(path)
            nib.save(nib.Nifti1Image(np.asarray(image.dataobj), np.diag([-size, size, size, 1])), path)
    assert prepare(root, tmp_path / "own", spacing=None, splits="kfold:3").spacing is None
    assert CaseStore.open(tmp_path / "own").shape("sub-01") == (26, 28, 24)
    assert prepare(root, tmp_path / "median", spacing="median", splits="kfold:3").spacing == (1, 1, 1)
    assert CaseStore.open(tmp_path / "median").shape("sub-01") == (23, 25, 22)


@pytest.mark.parametrize("spacing", [0, -1, 100, "fine", (1, 2), float("nan")])
def test_a_spacing_that_makes_no_sense(raw_dataset, tmp_path, spacing):
    with pytest.raises(InputError, match="spacing is not understood"):
        prepare(raw_dataset(), tmp_path / "out", spacing=spacing)


def test_ignore_label_and_regions(raw_dataset, tmp_path):
    root = raw_dataset(labels={"background": 0, "all": [1, 2], "core": [2], "ignore": 3}, regions_class_order=[1, 2])
    for path in (root / "labelsTr").iterdir():
        image = nib.load(path)
        voxels = np.asarray(image.dataobj).copy()
        voxels[10:20, 10:20, 10:14], voxels[10:20, 10:20, 14:18] = 2, 3
        nib.save(nib.Nifti1Image(voxels, image.affine), path)
    prepare(root, tmp_path / "out", spacing=None, splits="kfold:3")
    store = CaseStore.open(tmp_path / "out")
    _, label = store.read("sub-00")
    foreground = store.foreground("sub-00")
    assert {k: sorted(set(label[tuple(v.T)])) for k, v in foreground.items()} == {1: [1, 2], 2: [2]}
    assert 3 not in label[tuple(store.annotated("sub-00").T)] and (label == 3).any()


def test_ct_channels_share_the_statistics_of_the_set(raw_dataset, tmp_path):
    meta = prepare(raw_dataset(channel_names={"0": "CT"}), tmp_path / "out", spacing=None, splits="kfold:3")
    (known,) = meta.intensity_properties
    assert meta.normalisation == ("ct",) and known["mean"] == pytest.approx(180, abs=2)
    image, _ = CaseStore.open(tmp_path / "out").read("sub-00")
    assert image.max() == pytest.approx((known["percentile_99_5"] - known["mean"]) / known["std"], abs=1e-4)


def test_a_bids_data_set(raw_dataset, tmp_path):
    raw, root, labels = raw_dataset(), tmp_path / "bids", tmp_path / "labels"
    labels.mkdir()
    for case in ("sub-00", "sub-01", "sub-02"):
        (root / case / "anat").mkdir(parents=True)
        shutil.copy(raw / "imagesTr" / f"{case}_0000.nii.gz", root / case / "anat" / f"{case}_T2w.nii.gz")
        shutil.copy(raw / "labelsTr" / f"{case}.nii.gz", labels / f"{case}_label-PVS_mask.nii.gz")
    (root / "participants.tsv").write_text("participant_id\tsite\nsub-00\tA\nsub-01\tB\nsub-02\tB\n")
    with pytest.raises(InputError, match="--labels FOLDER"):
        prepare(root, tmp_path / "out")
    prepare(root, tmp_path / "out", splits="loso:site", labels=labels)
    store = CaseStore.open(tmp_path / "out")
    assert [fold["val"] for fold in store.splits] == [["sub-00"], ["sub-01", "sub-02"]]
    prepare(raw, tmp_path / "raw_out", splits="kfold:3")
    np.testing.assert_array_equal(store.read("sub-01")[0], CaseStore.open(tmp_path / "raw_out").read("sub-01")[0])


@pytest.mark.parametrize("options", [{"labels": "derivatives"}, {"suffix": "T2w"}, {"labels": "d", "suffix": "T2w"}])
def test_options_of_bids_are_refused_for_an_nnunet_data_set(raw_dataset, tmp_path, options):
    with pytest.raises(InputError, match="for BIDS data sets") as error:
        prepare(raw_dataset(), tmp_path / "out", splits="kfold:3", **options)
    assert all(f"--{name} {value}" in str(error.value) for name, value in options.items())
    assert not (tmp_path / "out").exists()


@pytest.fixture
def brain_masks(raw_dataset, tmp_path):
    """A data set, and a folder with a mask of the inner part of each head."""
    root, masks = raw_dataset(), tmp_path / "masks"
    masks.mkdir()
    for path in (root / "imagesTr").iterdir():
        image = nib.load(path)
        brain = np.zeros(image.shape, np.uint8)
        brain[10:26, 10:30, 8:26] = 1
        nib.save(nib.Nifti1Image(brain, image.affine), masks / path.name.replace("_0000", "_mask"))
    return root, masks


def test_heavier_preprocessing_is_off_unless_asked_for(raw_dataset, brain_masks, tmp_path, capsys):
    pytest.importorskip("SimpleITK")
    root, masks = brain_masks
    plain = prepare(root, tmp_path / "plain", splits="kfold:3")
    assert plain.optional_steps == () and "cleaned" not in capsys.readouterr().out
    meta = prepare(root, tmp_path / "out", splits="kfold:3", n4=True, denoise=True, brain_masks=masks)
    assert meta.optional_steps == ("n4", "denoise", "brain") and "SimpleITK" in meta.versions
    assert {"masks/sub-00_mask.nii.gz"} <= {name.removeprefix("../") for name in meta.sources["sub-00"]}
    printed = capsys.readouterr().out
    assert "cleaned by n4, denoise, brain" in printed and "Labelled voxels lie outside the brain mask" in printed
    store = CaseStore.open(tmp_path / "out")

    scan = read_scan(root / "imagesTr" / "sub-00_0000.nii.gz")
    volume, spacing, grid = to_volume(scan)
    brain = label_volume(read_labels(masks / "sub-00_mask.nii.gz"), grid) != 0
    expected = preprocess_scan(
        clean(volume, spacing, meta.optional_steps, brain),
        spacing,
        Preprocessing(spacing=(0.8,) * 3, use_mask_for_norm=True),  # decided by what the masks leave of the scans
        label_volume(read_labels(root / "labelsTr" / "sub-00.nii.gz"), grid),
    )
    # ITK's threads add up the bias field in another order each time.
    np.testing.assert_allclose(store.read("sub-00")[0], expected.volume, atol=2e-3)
    assert store.shape("sub-00") == expected.volume.shape[:3] < CaseStore.open(tmp_path / "plain").shape("sub-00")
    with pytest.raises(InputError, match="made with other settings"):
        prepare(root, tmp_path / "out", splits="kfold:3", n4=True)


def test_a_changed_brain_mask_makes_its_case_again(brain_masks, tmp_path):
    (root, masks), out = brain_masks, tmp_path / "out"
    prepare(root, out, splits="kfold:3", brain_masks=masks)
    before = stamps(out)
    mask = nib.load(masks / "sub-01_mask.nii.gz")
    smaller = np.asarray(mask.dataobj).copy()
    smaller[:12] = 0
    nib.save(nib.Nifti1Image(smaller, mask.affine), masks / "sub-01_mask.nii.gz")
    prepare(root, out, splits="kfold:3", brain_masks=masks)
    after = stamps(out)
    assert {case for case in after if after[case] != before[case]} == {"sub-01"}


def test_brain_masks_that_do_not_fit_are_reported_together(brain_masks, tmp_path):
    root, masks = brain_masks
    (masks / "sub-00_mask.nii.gz").unlink()
    affine = np.diag([-1.0, 1, 1, 1])
    nib.save(nib.Nifti1Image(np.zeros((36, 40, 34), np.uint8), affine), masks / "sub-01_mask.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((36, 40, 33), np.uint8), affine), masks / "sub-02_mask.nii.gz")
    with pytest.raises(InputError) as error:
        prepare(root, tmp_path / "out", splits="kfold:3", brain_masks=masks)
    assert {problem.what for problem in error.value.problems} >= {
        "A case has no brain mask.",
        "The brain mask is empty.",
        "The brain mask has another shape than its scan.",
    }
    with pytest.raises(InputError, match="folder of brain masks is missing"):
        prepare(root, tmp_path / "out", splits="kfold:3", brain_masks=tmp_path / "nowhere")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("")])
def test_something_that_is_no_data_set(tmp_path, make):
    make(tmp_path / "data")
    with pytest.raises(InputError, match="not understood"):
        prepare(tmp_path / "data", tmp_path / "out")


def test_a_name_that_is_not_utf8_is_told_before_anything_is_written(raw_dataset, tmp_path):
    root = raw_dataset(cases=("a", "b"))
    for old in sorted(root.glob("*/a*")):
        old.rename(old.with_name(old.name.replace("a", "caf\udce9", 1)))
    with pytest.raises(InputError, match=r"not UTF-8[\s\S]*caf\\udce9_0000\.nii\.gz[\s\S]*rename"):
        prepare(root, tmp_path / "out", splits="kfold:2")
    assert not (tmp_path / "out").exists()
