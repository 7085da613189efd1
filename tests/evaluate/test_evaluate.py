"""Folders of masks: pairing, what is written, and what is refused."""

from __future__ import annotations

import csv
import errno
import json

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.errors import InputError
from mednext_jax.evaluate.evaluate import evaluate, find_masks

pytestmark = pytest.mark.core
AFFINE = np.diag([0.5, 1.0, 2.0, 1.0])


def save(path, mask, affine=AFFINE, dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(mask.astype(dtype), affine), path)


def blobs(*corners):
    """Cubes of 2 voxels a side (8 mm3)."""
    mask = np.zeros((16, 12, 10))
    for x, y, z in corners:
        mask[x : x + 2, y : y + 2, z : z + 2] = 1
    return mask


@pytest.fixture
def folders(tmp_path):
    """Four cases: perfect; one of two found and one false; nothing found of three; empty in both."""
    cases = {
        "a": (blobs((0, 0, 0)), blobs((0, 0, 0))),
        "b": (blobs((0, 0, 0), (8, 8, 6)), blobs((1, 0, 0), (4, 4, 4))),
        "c": (blobs(), blobs((0, 0, 0), (4, 4, 4), (8, 8, 6))),
        "d": (blobs(), blobs()),
    }
    for case, (prediction, reference) in cases.items():
        save(tmp_path / "predictions" / f"{case}_mask.nii.gz", prediction)
        save(tmp_path / "predictions" / f"{case}_probability.nii.gz", prediction * 0.7, dtype=np.float32)
        save(tmp_path / "references" / f"{case}.nii.gz", reference)
        regions = np.ones(reference.shape)
        regions[8:] = 2
        save(tmp_path / "regions" / f"{case}.nii.gz", regions)
    (tmp_path / "regions" / "regions.json").write_text('{"white matter": 1, "basal ganglia": 2}')
    return tmp_path


def run(folders, **kwargs):
    return evaluate(folders / "predictions", folders / "references", folders / "out", figures=False, **kwargs)


def test_summary_files_and_table(folders, capsys):
    summary = run(folders, regions=folders / "regions")
    whole = summary["regions"]["all"]
    assert (whole["cases"], whole["empty_in_both"]) == (4, 1)
    # voxel Dice: 1, 2 * 4 / 32, 0, undefined; cluster Dice: 1, 2 / (2 + 1 + 1), 0, undefined
    assert whole["dice"] == pytest.approx(
        {"mean": 1.25 / 3, "sd": np.std([1, 0.25, 0], ddof=1), "median": 0.25, "n": 3}
    )
    assert whole["cluster_dice"]["mean"] == pytest.approx(0.5)
    assert whole["precision"]["n"] == 2
    assert whole["volume_mm3"]["mean"] == pytest.approx(6) and whole["volume_mm3"]["reference_mean"] == pytest.approx(
        12
    )
    assert whole["count"]["pearson"] == pytest.approx(np.corrcoef([1, 2, 0, 0], [1, 2, 3, 0])[0, 1])
    assert whole["reference_count_5_to_10_mm3"] == 6 and whole["found_5_to_10_mm3"] == 2
    assert summary["regions"]["basal ganglia"]["count"]["mean"] == 0.25

    stored = json.loads((folders / "out" / "summary.json").read_text())
    assert stored["regions"]["all"] == whole
    assert stored["cases"]["d"]["all"]["dice"] is None
    rows = list(csv.DictReader((folders / "out" / "cases.csv").open()))
    assert [(r["case"], r["region"]) for r in rows[:3]] == [("a", "all"), ("a", "white matter"), ("a", "basal ganglia")]
    assert len(rows) == 12 and float(rows[3]["cluster_dice"]) == 0.5 and rows[9]["dice"] == ""

    printed = capsys.readouterr().out
    assert "4 cases" in printed and "0.417 ± 0.520" in printed and "basal ganglia" in printed


def test_volumes_on_a_sheared_grid_are_those_of_its_voxels(tmp_path):
    """1 x 1 x 2 mm, 1.6 mm3 a voxel: of the tool, of the reference, of a rater, and as ISLES has it."""
    pytest.importorskip("SimpleITK")  # the raters' consensus
    sheared = np.array([[1, 0.6, 0, 3], [0, 0.8, 0, -7], [0, 0, 2, 1], [0, 0, 0, 1]])
    for name, mask in (("p", blobs((0, 0, 0))), ("r", blobs((0, 0, 0), (4, 4, 4))), ("s", blobs((4, 4, 4)))):
        save(tmp_path / name / "a.nii.gz", mask, sheared)
    raters = {"first": tmp_path / "r", "second": tmp_path / "s"}
    evaluate(tmp_path / "p", tmp_path / "r", tmp_path / "out", raters=raters, figures=False)
    (row,) = read_csv(tmp_path / "out" / "cases.csv")
    volumes = float(row["volume_mm3"]), float(row["reference_volume_mm3"])
    assert volumes == pytest.approx((8 * 1.6, 16 * 1.6), rel=1e-6)  # the file's affine is float32
    assert float(row["isles2022_avd_ml"]) == pytest.approx(8 * 1.6 / 1000, rel=1e-6)
    assert row["reference_count_10_to_15_mm3"] == "2"  # 12.8 mm3 each, and not the 16 of the sizes
    volumes = {row["mask"]: float(row["volume_mm3"]) for row in read_csv(tmp_path / "out" / "rater_masks.csv")}
    assert (volumes["first"], volumes["second"]) == pytest.approx((16 * 1.6, 8 * 1.6), rel=1e-6)


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_one_file_each(folders):
    summary = evaluate(folders / "predictions" / "b_mask.nii.gz", folders / "references" / "a.nii.gz", folders / "out")
    assert list(summary["cases"]) == ["b"] and summary["regions"]["all"]["count"]["mean"] == 2


def test_references_without_prediction_are_named_not_scored(folders, capsys):
    (folders / "predictions" / "c_mask.nii.gz").unlink()
    assert run(folders)["references_without_prediction"] == ["c"]
    assert "1 references have no prediction" in capsys.readouterr().out


def test_problems_of_all_cases_are_reported_together_and_nothing_is_written(folders):
    save(folders / "predictions" / "a_mask.nii.gz", np.zeros((4, 4, 4)))
    save(folders / "predictions" / "b_mask.nii.gz", blobs() + 0.3, dtype=np.float32)
    save(folders / "predictions" / "d_mask.nii.gz", blobs(), affine=np.diag([-0.5, 1, 2, 1.0]))
    with pytest.raises(InputError) as error:
        run(folders)
    text = str(error.value)
    assert len(error.value.problems) == 3
    assert "a_mask.nii.gz" in text and "another shape" in text and "(4, 4, 4)" in text
    assert "b_mask.nii.gz" in text and "not integers" in text
    assert "d_mask.nii.gz" in text and "another orientation" in text
    assert not (folders / "out").exists()


def test_what_cannot_be_paired_is_refused(folders, tmp_path):
    save(folders / "predictions" / "stranger_mask.nii.gz", blobs())
    with pytest.raises(InputError, match="stranger"):
        run(folders)
    save(folders / "references" / "more" / "a_dseg.nii.gz", blobs())
    with pytest.raises(InputError, match="Two label maps"):
        run(folders)
    (tmp_path / "empty").mkdir()
    for source in ("empty", "absent"):
        with pytest.raises(InputError, match="no label maps"):
            evaluate(tmp_path / source, folders / "references", folders / "out")


def test_an_output_that_exists_is_refused(folders):
    (folders / "out").mkdir()
    (folders / "out" / "keep.txt").write_text("mine")
    with pytest.raises(InputError, match="not overwritten"):
        run(folders)
    assert [p.name for p in (folders / "out").iterdir()] == ["keep.txt"]


def test_a_full_disk_does_not_take_the_table(folders, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mednext_jax.evaluate.evaluate.write_results", full)
    with pytest.raises(OSError, match="No space left"):
        run(folders)
    assert "cluster Dice" in capsys.readouterr().out and not (folders / "out").exists()


def test_the_ignore_label_of_dataset_json_counts_in_neither_mask(folders, capsys):
    prediction, reference = blobs((0, 0, 0), (8, 8, 6)), blobs((0, 0, 0), (4, 4, 4))
    reference[6:] = 2  # not annotated: the second predicted cube lies there
    labels = folders / "set" / "labelsTr"
    save(labels / "a.nii.gz", reference)
    save(folders / "p" / "a_mask.nii.gz", prediction)
    (folders / "set" / "dataset.json").write_text('{"labels": {"background": 0, "pvs": 1, "ignore": 2}}')
    summary = evaluate(folders / "p", labels, folders / "out")
    scores = summary["cases"]["a"]["all"]
    assert (scores["tp"], scores["fp"], scores["fn"], scores["dice"]) == (8, 0, 8, 2 * 8 / 24)
    assert (scores["count"], scores["reference_count"], scores["cluster_fp"]) == (1, 2, 0)
    assert scores["volume_mm3"] == 8 and scores["reference_volume_mm3"] == 16
    assert summary["ignore_label"] == 2 and "ignore label 2" in capsys.readouterr().out

    one = evaluate(folders / "p" / "a_mask.nii.gz", labels / "a.nii.gz", folders / "one")
    assert one["cases"]["a"]["all"] == scores
    (folders / "set" / "dataset.json").unlink()
    assert evaluate(folders / "p", labels, folders / "all")["cases"]["a"]["all"]["fn"] > 8  # a label as any other
    asked = evaluate(folders / "p", labels, folders / "asked", ignore_label=2)
    assert asked["cases"]["a"]["all"] == scores


@pytest.mark.parametrize("value", [0, -1, 2**15])
def test_an_ignore_label_that_no_label_map_can_hold_is_refused(folders, value):
    """Without the background, every precision would be 1."""
    with pytest.raises(InputError, match="ignore label"):
        run(folders, ignore_label=value)
    assert not (folders / "out").exists()


def test_what_the_labels_of_the_references_count_as_is_said(folders, capsys):
    reference = blobs((0, 0, 0), (4, 4, 4))
    reference[4:6, 4:6, 4:6] = 3
    save(folders / "references" / "a.nii.gz", reference)
    run(folders, ignore_label=2)
    said = capsys.readouterr().out
    assert "no reference has a voxel with the ignore label 2" in said and "not counted" not in said
    assert "the labels 1, 3 of the references count alike" in said


def test_maps_that_lie_beside_one_another_are_told(folders, capsys):
    """Up to a voxel apart is scored, with a warning; so are region maps."""
    apart = AFFINE.copy()
    apart[0, 3] += 0.3
    save(folders / "predictions" / "a_mask.nii.gz", blobs((0, 0, 0)), affine=apart)
    save(folders / "regions" / "b.nii.gz", np.ones((16, 12, 10)), affine=apart)
    assert run(folders, regions=folders / "regions")["cases"]["a"]["all"]["dice"] == 1
    said = capsys.readouterr().out
    assert "[W] The prediction has another affine" in said and "a_mask.nii.gz" in said
    assert "[W] The region map has another affine" in said and "0.6 voxels apart" in said


def test_the_ignore_label_holds_in_regions(folders):
    reference = blobs((0, 0, 0), (8, 8, 6))
    reference[8:] = 2  # all of the basal ganglia
    for case in "abcd":
        save(folders / "references" / f"{case}.nii.gz", reference)
    scores = run(folders, regions=folders / "regions", ignore_label=2)["cases"]["b"]
    assert scores["basal ganglia"]["fp"] == scores["basal ganglia"]["reference_count"] == 0
    assert scores["white matter"]["tp"] == scores["all"]["tp"] == 8


def test_brain_masks_beside_the_label_maps_are_left_out(tmp_path):
    anat = tmp_path / "pvs" / "sub-1" / "anat"
    for name in ("label-pvs", "desc-brain", "label-head"):
        save(anat / f"sub-1_{name}_mask.nii.gz", blobs((0, 0, 0)))
    save(anat / "sub-1_brain_mask.nii.gz", blobs())
    save(tmp_path / "p" / "sub-1_mask.nii.gz", blobs((0, 0, 0)))
    assert find_masks(tmp_path / "pvs") == {"sub-1": anat / "sub-1_label-pvs_mask.nii.gz"}
    assert evaluate(tmp_path / "p", tmp_path / "pvs", tmp_path / "out")["regions"]["all"]["dice"]["mean"] == 1


def test_masks_behind_links_in_any_letters_and_hidden_ones(tmp_path, capsys):
    save(tmp_path / "store" / "sub-1" / "sub-1_mask.nii.gz", blobs())
    (tmp_path / "store" / "sub-1" / "sub-1_mask.nii.gz").rename(tmp_path / "store" / "sub-1" / "sub-1_mask.NII.GZ")
    (tmp_path / "store" / "sub-1" / "._sub-1_mask.NII.GZ").write_bytes(b"Mac OS X")
    (tmp_path / "store" / "sub-1" / "round").symlink_to(tmp_path / "store")  # a loop
    (tmp_path / "masks" / ".git").mkdir(parents=True)
    save(tmp_path / "masks" / ".git" / "x_mask.nii.gz", blobs())
    (tmp_path / "masks" / "sub-1").symlink_to(tmp_path / "store" / "sub-1")
    (tmp_path / "masks" / "sub-2.mgz").write_bytes(b"x")
    found = find_masks(tmp_path / "masks")
    assert list(found) == ["sub-1"] and found["sub-1"].name == "sub-1_mask.NII.GZ"
    assert "sub-2.mgz" in capsys.readouterr().out


def test_every_case_that_is_there_twice_is_named(tmp_path):
    for case in "ab":
        save(tmp_path / f"{case}_mask.nii.gz", blobs())
        save(tmp_path / f"{case}_dseg_mask.nii.gz", blobs())
    with pytest.raises(InputError) as error:
        find_masks(tmp_path)
    assert len(error.value.problems) == 2


def test_labels_that_have_wrapped_are_refused(folders):
    save(folders / "predictions" / "a_mask.nii.gz", -blobs((0, 0, 0)), dtype=np.int8)
    save(folders / "references" / "b.nii.gz", -blobs((0, 0, 0)), dtype=np.int8)
    with pytest.raises(InputError) as error:
        run(folders)
    assert [problem.what for problem in error.value.problems] == ["The label map has negative values."] * 2
    assert "255 stored as int8 is -1" in str(error.value)


def test_names_of_tables_are_no_formulas_and_steer_nothing(tmp_path, capsys):
    for folder in ("p", "r"):
        save(tmp_path / folder / "=HYPERLINK(1).nii.gz", blobs((0, 0, 0)))
        save(tmp_path / folder / "a\x1b[31m.nii.gz", blobs((0, 0, 0)))
    regions = np.ones(blobs().shape)
    for case in ("=HYPERLINK(1)", "a\x1b[31m"):
        save(tmp_path / "regions" / f"{case}.nii.gz", regions)
    (tmp_path / "regions" / "regions.json").write_text(json.dumps({"@wm\x1b": 1}))
    evaluate(tmp_path / "p", tmp_path / "r", tmp_path / "out", regions=tmp_path / "regions")
    rows = list(csv.DictReader((tmp_path / "out" / "cases.csv").open()))
    assert [(row["case"], row["region"]) for row in rows] == [
        ("'=HYPERLINK(1)", "all"),
        ("'=HYPERLINK(1)", "'@wm\\x1b"),
        ("a\\x1b[31m", "all"),
        ("a\\x1b[31m", "'@wm\\x1b"),
    ]
    assert "\x1b" not in capsys.readouterr().out
    assert "=HYPERLINK(1)" in json.loads((tmp_path / "out" / "summary.json").read_text())["cases"]
