"""Folders of masks: pairing, what is written, and what is refused."""

from __future__ import annotations

import csv
import json

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.errors import InputError
from mednext_jax.evaluate.evaluate import case_of, evaluate

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
    return evaluate(folders / "predictions", folders / "references", folders / "out", **kwargs)


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


def test_one_file_each(folders):
    summary = evaluate(folders / "predictions" / "b_mask.nii.gz", folders / "references" / "a.nii.gz", folders / "out")
    assert list(summary["cases"]) == ["b"] and summary["regions"]["all"]["count"]["mean"] == 2


def test_references_without_prediction_are_named_not_scored(folders, capsys):
    (folders / "predictions" / "c_mask.nii.gz").unlink()
    assert run(folders)["references_without_prediction"] == ["c"]
    assert "1 references have no prediction" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, case",
    [
        ("sub-01.nii.gz", "sub-01"),
        ("sub-01_mask.nii", "sub-01"),
        ("sub-01_ses-2_run-1_space-orig_label-PVS_mask.nii.gz", "sub-01_ses-2_run-1"),
        ("sub-01_seg-PVS_desc-manual_dseg.nii.gz", "sub-01"),
        ("mask_of_sub-01.nii.gz", "mask_of_sub-01"),
    ],
)
def test_case_names(tmp_path, name, case):
    assert case_of(tmp_path / name) == case


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
