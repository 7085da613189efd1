"""Words that ask for a look: where they stand, and where they do not."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from mednext_jax.inference.flags import edge_flag, flagged, scan_flags, training_flags, with_cohort_flags
from mednext_jax.inference.predict import predict
from mednext_jax.inference.unlike_model import contradiction
from mednext_jax.io.contrast import contrast_in
from mednext_jax.weights.recipe import Recipe

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("name", "channel", "expected"),
    [
        ("sub-1_T1w.nii.gz", "T2w", "T1w"),
        ("sub-1_T2w.nii.gz", "T2w", None),
        ("sub-1_t2.nii.gz", "T2w", None),
        ("sub-1_FLAIR.NII.GZ", "T1", "FLAIR"),
        ("sub-1_0000.nii.gz", "T2w", None),
        ("sub-1_T1w.nii.gz", "MRI", None),
    ],
)
def test_the_contrast_that_a_name_says(name, channel, expected):
    found = contradiction(Path(name), contrast_in(channel))
    assert (found and found.found) == (expected and f"{expected}, by the file's name")


def test_flags_of_one_scan():
    recipe = Recipe(channel_names=("T2w",), spacing=(0.8, 0.8, 0.8), brain_extracted=False)
    odd = scan_flags(recipe, [Path("a_T1w.nii.gz")], (0.8, 0.8, 3.0), True)
    assert odd == ["voxel size", "contrast", "no skull"]
    assert scan_flags(recipe, [Path("a_T2w.nii.gz")], (1.0, 0.8, 0.8), False) == []
    extracted = Recipe(channel_names=("T2w",), brain_extracted=True)
    assert scan_flags(extracted, [Path("a.nii.gz")], (9.0, 9.0, 9.0), False) == ["skull"]
    unknown = Recipe(channel_names=("T2w",), spacing=None)
    assert scan_flags(unknown, [Path("a.nii.gz")], (9.0, 9.0, 9.0), True) == []


def test_a_scan_beyond_the_table_of_thresholds_is_flagged():
    row = {"contrast": "T1w", "largest_voxel": 2.0, "threshold": 0.3}
    recipe = Recipe(channel_names=("MRI",), thresholds=(row,))
    flags = {
        (name, edge): scan_flags(recipe, [Path(name)], (edge, 1.0, 1.0), False)
        for name in ("a_T1w.nii.gz", "a_T2w.nii.gz", "a.nii.gz")
        for edge in (2.0, 2.1)
    }
    assert flags.pop(("a_T1w.nii.gz", 2.1)) == ["voxel size"]
    assert flags == {
        ("a_T1w.nii.gz", 2.0): [],
        **{("a_T2w.nii.gz", edge): ["contrast"] for edge in (2.0, 2.1)},
        **{("a.nii.gz", edge): [] for edge in (2.0, 2.1)},
    }


def test_clusters_at_the_brain_s_edge():
    inside = np.zeros((40, 40, 40), bool)
    inside[5:35, 5:35, 5:35] = True
    middle = [(x, 20, 20) for x in range(8, 32, 3)]
    rim = [(6, 10, 10), (20, 33, 20), (34, 5, 20)]  # within two voxels of what is not brain

    def labels(*places):
        found = np.zeros(inside.shape, np.int32)
        for i, place in enumerate(places, 1):
            found[place] = i
        return found

    assert edge_flag(labels(*middle), inside) is None
    assert edge_flag(labels(*middle[:8], *rim[:2]), inside) is None  # a fifth
    assert edge_flag(labels(*middle[:8], *rim), inside) == "edge"
    assert edge_flag(labels((8, 20, 20), *middle[1:8], *rim[:2]), inside) is None
    assert edge_flag(labels(*rim), inside) is None  # too few to judge by
    assert edge_flag(labels(*middle), np.ones_like(inside)) is None  # the scan's own border is no brain's


def test_counts_and_volumes_that_training_did_not_show():
    row = {"count": 9, "volume_mm3": 401.0}
    ranges = [{"count": [30, 60], "volume_mm3": [100.0, 150.0]}, {"count": [20, 50], "volume_mm3": [120.0, 200.0]}]
    assert training_flags(row, ranges) == ["count unlike training", "volume unlike training"]
    assert training_flags({"count": 10, "volume_mm3": 400.0}, ranges) == []
    assert training_flags(row, []) == training_flags(row, [{"count": "many", "volume_mm3": [1]}, {}]) == []


def rows_of(counts, volumes=None):
    volumes = [10.0 * c for c in counts] if volumes is None else volumes
    return [
        {"scan": f"s{i}", "count": c, "volume_mm3": v, "seconds": 1.0, "flags": "edge" if i == 0 else ""}
        for i, (c, v) in enumerate(zip(counts, volumes, strict=True))
    ]


def test_a_scan_among_the_others():
    usual = [90, 95, 100, 105, 110, 98, 102, 93, 107, 100]
    assert [row["flags"] for row in with_cohort_flags(rows_of(usual))] == ["edge", *[""] * 9]
    odd = with_cohort_flags(rows_of([*usual, 1000, 2]))
    assert [row["flags"] for row in odd][-2:] == ["many PVS; large volume", "few PVS; small volume"]
    assert with_cohort_flags(odd) == odd  # again: the same words once
    assert [row["flags"] for row in with_cohort_flags(odd[:5] + odd[-2:])][-2:] == ["", ""]  # too few to judge by
    assert not any(row["flags"] for row in with_cohort_flags(rows_of([7] * 11 + [400]))[1:])  # no spread
    (first, *_) = flagged(odd)
    assert first.file == "s0" and first.found == "edge" and first.severity == "W"


def test_flags_stand_in_the_table_and_at_the_end(variant, save_scan, tmp_path, capsys):
    model = variant(spacing=(0.9, 1.1, 1.0), brain_extracted=True)
    path = save_scan(tmp_path / "a_T1w.nii.gz")
    (row,) = predict(path, tmp_path / "out", model, tta=False)
    assert row["flags"] == "contrast; skull"
    assert (tmp_path / "out" / "volumes.tsv").read_text().splitlines()[1].endswith("\tcontrast; skull")
    printed = capsys.readouterr().out
    assert "look at it: contrast; skull" in printed
    assert "a_T1w" in printed.split("[W] Some scans ask for a look.")[1]
    (again,) = predict(path, tmp_path / "out", model, tta=False)
    assert again == row


def test_an_extracted_brain_with_findings_at_its_rim_is_flagged(models, tmp_path):
    rng = np.random.default_rng(0)
    brain = np.abs(np.mgrid[:60, :60, :60] - 30).sum(0) < 22  # an octahedron fills a sixth of its box
    voxels = np.where(brain, rng.normal(300, 80, brain.shape), 0).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "a.nii.gz")
    (row,) = predict(tmp_path / "a.nii.gz", tmp_path / "out", models[0], tta=False)
    mask = np.asarray(nib.load(tmp_path / "out" / "a_mask.nii.gz").dataobj)
    rim = brain & ~ndimage.binary_erosion(brain, np.ones((5, 5, 5)))
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    assert row["count"] == count >= 5 and len(np.unique(labels[rim & (labels > 0)])) > 0.2 * count
    assert row["flags"] == "edge"
    (row,) = predict(tmp_path / "a.nii.gz", tmp_path / "asked", models[0], tta=False, background="compute")
    assert row["flags"] == ""  # what is brain is the network's to say
