"""The four measures on scans and masks that are known."""

from __future__ import annotations

import csv
import shutil
import sys

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.errors import InputError
from tests.simulate.heads import AFFINE, region_map, save, scan_of
from tools.bench_real import bench_real, main
from tools.real_scans import open_cases

pytest.importorskip("matplotlib")

VALUES = region_map()
LESION = (slice(18, 23), slice(14, 19), slice(28, 32))


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One person's T1w and T2w scan with a lesion mask, maps, and the first call, that writes the painted scans."""
    root = tmp_path_factory.mktemp("real")
    for name in ("scans", "maps", "masks"):
        (root / name).mkdir()
    for contrast in ("T1w", "T2w"):
        save(root / "scans" / f"p1_{contrast}.nii.gz", scan_of(VALUES, contrast, noise=15))
        save(root / "maps" / f"p1_{contrast}.nii.gz", VALUES)
    lesions = np.zeros(VALUES.shape, np.uint8)
    lesions[LESION] = 1
    save(root / "scans" / "p1_lesions.nii.gz", lesions)
    save(root / "scans" / "p2_nothing.nii.gz", scan_of(VALUES))  # in no contrast that is known
    assert bench_real(root / "scans", root / "out", regions=root / "maps", pictures=False) == []
    for contrast in ("T1w", "T2w"):
        before, after = (
            np.asarray(nib.load(path).dataobj)
            for path in (
                root / "scans" / f"p1_{contrast}.nii.gz",
                root / "out" / "painted" / f"p1_{contrast}_painted.nii.gz",
            )
        )
        mask = np.zeros(VALUES.shape, np.uint8)
        mask[LESION] = 1  # in white matter, in the lesion, in both contrasts
        mask[31:33, 4:6, 28:30] = 1  # in cortex
        if contrast == "T1w":
            mask[40:42, 14:16, 28:30] = 1  # in white matter, in one contrast
        save(root / "masks" / f"p1_{contrast}_mask.nii.gz", mask)
        save(root / "masks" / f"p1_{contrast}_probability.nii.gz", (0.9 * mask).astype(np.float32))
        changed = np.abs(after - before) > 0.15 * abs(np.median(before[VALUES == 4]) - np.median(before[VALUES == 2]))
        save(root / "masks" / f"p1_{contrast}_painted_mask.nii.gz", changed.astype(np.uint8))
        save(root / "masks" / f"p1_{contrast}_painted_probability.nii.gz", (0.6 * changed).astype(np.float32))
    return root


def test_the_measures_of_known_masks(folders, capsys):
    arguments = [str(folders / "scans"), "--masks", str(folders / "masks"), "--regions", str(folders / "maps")]
    assert main([*arguments, "-o", str(folders / "out")]) == 0
    told = capsys.readouterr()
    assert "tells no contrast" in told.err  # of p2, and the others are measured
    rows = {row["case"]: row for row in table(folders / "out" / "summary.tsv")}
    assert list(rows) == ["p1_T1w", "p1_T2w", "mean T1w", "mean T2w"]
    assert [rows[f"p1_{c}"]["clusters"] for c in ("T1w", "T2w")] == ["3", "2"]
    assert [rows[f"p1_{c}"]["misplaced"] for c in ("T1w", "T2w")] == ["0.333", "0.500"]
    assert [rows[f"p1_{c}"]["in_lesions"] for c in ("T1w", "T2w")] == ["0.333", "0.500"]
    for case in ("p1_T1w", "p1_T2w"):
        # Whatever moved by more than noise is marked: large tubes all, and by chance hardly any in the untouched scan.
        assert float(rows[case]["recall_above_15"]) == 1
        assert float(rows[case]["recall"]) > 0.6
        assert float(rows[case]["recall_untouched"]) < 0.1
        assert float(rows[case]["tubes_misplaced"]) < 0.05
        assert int(rows[case]["tubes"]) > 20
        assert rows[case]["recall_at_25"] == rows[case]["recall"]
    (pair,) = table(folders / "out" / "agreement.tsv")
    assert (pair["case"], pair["other"], pair["clusters"], pair["others"]) == ("p1_T1w", "p1_T2w", "2", "1")
    assert (pair["there"], pair["back"], pair["mean"]) == ("0.500", "1.000", "0.750")
    assert float(pair["ratio"]) > 3
    points = [row for row in table(folders / "out" / "curves.tsv") if row["case"] == "p1_T1w"]
    assert {row["clusters"] for row in points if float(row["threshold"]) < 0.9} == {"3"}
    assert {row["recall"] for row in points if float(row["threshold"]) > 0.6} == {"0.000"}
    for name in ("curves.png", "pictures/p1_T1w.png", "pictures/p1_T2w.png"):
        assert (folders / "out" / name).read_bytes().startswith(b"\x89PNG")
    assert "mean T1w" in told.out


def test_wrong_calls_are_told(folders, tmp_path, capsys):
    def told(*arguments, status=2):
        with pytest.raises(SystemExit) as end:
            main([*map(str, arguments), "-o", str(tmp_path / "out")])
        assert end.value.code == status
        return capsys.readouterr().err

    lone = tmp_path / "scans"
    lone.mkdir()
    save(lone / "p3.nii.gz", scan_of(VALUES))
    assert "No scan could be measured" in told(lone)
    assert not (tmp_path / "out").exists()
    other = tmp_path / "masks"
    other.mkdir()
    save(other / "p1_T1w_mask.nii.gz", np.ones((4, 4, 4), np.uint8), AFFINE)
    scan = folders / "scans" / "p1_T1w.nii.gz"
    maps = ["--regions", folders / "maps" / "p1_T1w.nii.gz"]
    assert "not on the grid" in told(scan, "--masks", other, *maps)
    assert "no folder of masks" in told(scan, "--masks", tmp_path / "absent", *maps)
    assert "a model or masks" in told(scan, "--masks", other, "-m", "model")
    assert "whole number from 0" in told(scan, "--seed", "-1")
    assert "number above 0" in told(scan, "--step", "nan")
    same = tmp_path / "same"
    same.mkdir()
    save(same / scan.name, scan_of(VALUES))
    assert "Two scans have one name" in told(scan, same)
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").write_text("a file")
    assert "a directory" in told(scan, *maps, status=1)


def test_a_lesion_mask_on_another_grid_is_told_and_left_out(folders, tmp_path, capsys):
    for name, array in (("p1_T1w", scan_of(VALUES)), ("p1_lesions", np.ones((4, 4, 4), np.uint8))):
        save(tmp_path / f"{name}.nii.gz", array)
    (case,) = open_cases({path.name.removesuffix(".nii.gz"): path for path in tmp_path.iterdir()})
    assert case.lesions is None and "p1_T1w: the lesion mask is on another grid" in capsys.readouterr().err


def test_without_matplotlib_the_tables_alone_can_be_asked_for(folders, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tools.real_pictures", None)
    with pytest.raises(InputError, match="--no-pictures"):
        bench_real(folders / "scans", tmp_path / "out")
    assert not (tmp_path / "out").exists()
