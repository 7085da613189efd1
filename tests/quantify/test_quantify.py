"""The command from files to files: names, tables, BIDS, what is refused, one bad case among good ones."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import mednext_jax as mx
from mednext_jax import main as command_line
from mednext_jax.errors import InputError
from mednext_jax.quantify.tables import dictionaries
from tests.measure.brain import AFFINE, brain
from tests.quantify.conftest import pvs_mask

pytestmark = pytest.mark.core


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_folder(cohort, tmp_path, capsys):
    masks, maps = cohort
    out = tmp_path / "out"
    rows = mx.quantify(masks, None, maps, out=out)
    kinds = ("clusters.nii.gz", "clusters.tsv", "regions.tsv")
    expected = [f"{case}_{kind}" for case in ("sub-1", "sub-2") for kind in kinds]
    assert names(out) == sorted([*expected, "clusters.json", "pvs.json", "pvs.tsv", "quantification.json"])
    assert "[1/2] sub-1: 3 PVS, 152.0 mm3 (5 with those below 5 voxels" in capsys.readouterr().out
    clusters = table(out / "sub-1_clusters.tsv")
    labels = nib.load(out / "sub-1_clusters.nii.gz")
    assert labels.get_data_dtype() == np.uint16 and len(clusters) == labels.get_fdata().max() == 5
    np.testing.assert_array_equal(labels.get_fdata() > 0, pvs_mask() > 0)
    np.testing.assert_array_equal(labels.affine, AFFINE)
    assert {c["probability_mean"] for c in clusters} == {"0.8000"}  # of the map beside the mask
    whole = next(r for r in rows if (r["scan"], r["region"]) == ("sub-1", "whole brain"))
    assert whole["count"] == "3" and whole["hemisphere"] == "both"
    cohort_rows = table(out / "pvs.tsv")
    assert cohort_rows == rows and len({r["scan"] for r in rows}) == 2
    assert [{"scan": "sub-2"} | r for r in table(out / "sub-2_regions.tsv")] == [
        r for r in rows if r["scan"] == "sub-2"
    ]
    for name, columns in (("clusters.json", clusters[0]), ("pvs.json", rows[0])):
        defined = json.loads((out / name).read_text())
        assert set(columns) <= set(defined) and all("Description" in about for about in defined.values())
    assert table(out / "sub-2_clusters.tsv") == []


def test_the_command_line_does_the_same(cohort, tmp_path):
    masks, maps = cohort
    mx.quantify(masks, None, maps, out=tmp_path / "a", min_voxels=2, connectivity=6)
    arguments = [
        "quantify",
        "-i",
        masks,
        "-o",
        tmp_path / "b",
        "--regions",
        maps,
        "--min-voxels",
        2,
        "--connectivity",
        6,
    ]
    assert command_line.main([str(a) for a in arguments]) == 0
    for name in ("pvs.tsv", "sub-1_clusters.tsv", "quantification.json"):
        assert (tmp_path / "a" / name).read_text() == (tmp_path / "b" / name).read_text()


def test_one_mask_in_memory_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = nib.Nifti1Image(pvs_mask(), AFFINE)
    found = mx.quantify(image, regions=nib.Nifti1Image(brain(), AFFINE))
    assert found.regions[0]["count"] == 3 and {r["region"] for r in found.clusters} >= {"thalamus", "elsewhere"}
    with pytest.warns(UserWarning, match="1 mm voxels"):
        assert mx.quantify(pvs_mask()).regions[0]["volume_mm3"] == 19
    assert not list(tmp_path.iterdir())


def test_volumes_on_a_sheared_grid_are_those_of_its_voxels():
    sheared = np.array([[1, 0.6, 0, 3], [0, 0.8, 0, -7], [0, 0, 2, 1], [0, 0, 0, 1]])  # 1 x 1 x 2 mm, 1.6 mm3
    mask = np.zeros((9, 9, 9), np.uint8)
    mask[4, 4, 2:8] = 1
    regions = np.full(mask.shape, 10, np.int16)  # the thalamus
    maps = nib.Nifti1Image(regions, sheared)
    found = mx.quantify(nib.Nifti1Image(mask, sheared), regions=maps, region_names="freesurfer")
    rows = {(row["region"], row["hemisphere"]): row for row in found.regions}
    assert found.clusters[0]["volume_mm3"] == rows["whole brain", "both"]["volume_mm3"] == pytest.approx(6 * 1.6)
    assert rows["thalamus", "left"]["region_volume_mm3"] == pytest.approx(9**3 * 1.6)
    assert found.clusters[0]["length_mm"] == pytest.approx(12, rel=0.02)


def test_a_bids_derivative(save, tmp_path):
    stem = "sub-01/anat/sub-01_T2w_space-orig_label-PVS"
    save(f"raw/{stem}_mask.nii.gz", pvs_mask())
    save(f"raw/{stem}_probseg.nii.gz", np.where(pvs_mask(), 0.9, 0).astype(np.float32))
    mx.quantify(tmp_path / "raw", out=tmp_path / "out")
    start = "sub-01/anat/sub-01_T2w_space-orig"
    files = [f"{start}_seg-PVS_dseg.{ending}" for ending in ("json", "nii.gz", "tsv")] + [f"{start}_desc-pvs_stats.tsv"]
    assert set(files) <= set(names(tmp_path / "out"))
    rows = table(tmp_path / "out" / f"{start}_seg-PVS_dseg.tsv")
    assert [r["index"] for r in rows] == [r["cluster"] for r in rows] == ["1", "2", "3", "4", "5"]
    about = json.loads((tmp_path / "out" / f"{start}_seg-PVS_dseg.json").read_text())
    assert set(rows[0]) - {"index", "name"} <= set(about) and about["SpatialReference"] == "orig"


def test_a_bad_case_stops_no_other(cohort, save, tmp_path):
    masks, maps = cohort
    (maps / "sub-2.nii.gz").unlink()
    save("masks/sub-3_mask.nii.gz", np.full((40, 40, 40), 0.5, np.float32))
    save("masks/sub-4_mask.nii.gz", brain())
    out = tmp_path / "out"
    with pytest.raises(InputError) as raised:
        mx.quantify(masks, None, maps, out=out)
    said = str(raised.value)
    assert "no region map" in said and "--threshold" in said and "--labels" in said and said.count("[E]") == 3
    assert {r["scan"] for r in table(out / "pvs.tsv")} == {"sub-1"} and not list(out.glob("sub-[234]*"))
    # Mended, the same call does what is left.
    save("maps/sub-2.nii.gz", brain())
    for number in (3, 4):
        (masks / f"sub-{number}_mask.nii.gz").unlink()
    before = (out / "sub-1_regions.tsv").stat().st_mtime_ns
    rows = mx.quantify(masks, None, maps, out=out)
    assert {r["scan"] for r in rows} == {"sub-1", "sub-2"}
    assert (out / "sub-1_regions.tsv").stat().st_mtime_ns == before


def test_when_all_are_bad_nothing_is_left(save, tmp_path):
    save("masks/a.nii.gz", np.full((8, 8, 8), 0.5, np.float32))
    with pytest.raises(InputError, match="--threshold"):
        mx.quantify(tmp_path / "masks", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_outputs_are_not_overwritten(cohort, tmp_path):
    masks, maps = cohort
    out = tmp_path / "out"
    mx.quantify(masks, None, maps, out=out)
    with pytest.raises(InputError, match=r"other settings \(min_voxels\)"):
        mx.quantify(masks, None, maps, out=out, min_voxels=9)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not overwritten"):
        mx.quantify(masks, out=tmp_path / "full")
    assert names(tmp_path / "full") == ["notes.txt"]


def test_a_table_with_a_column_less_is_told_before_anything_is_written(cohort, tmp_path):
    masks, maps = cohort
    out = tmp_path / "out"
    mx.quantify(masks, None, maps, out=out)
    lines = [line.split("\t") for line in (out / "sub-2_regions.tsv").read_text().splitlines()]
    (out / "sub-2_regions.tsv").write_text("\n".join("\t".join(line[:2] + line[3:]) for line in lines) + "\n")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(
        InputError, match=r"lacks columns[\s\S]*sub-2_regions.tsv[\s\S]*no count\b[\s\S]*remove this table"
    ):
        mx.quantify(masks, None, maps, out=out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (out / "sub-2_regions.tsv").unlink()
    assert {row["scan"] for row in mx.quantify(masks, None, maps, out=out)} == {"sub-1", "sub-2"}


def test_labels_and_thresholds(save, tmp_path):
    several = pvs_mask().copy()
    several[30] *= 2
    path = save("several.nii.gz", several)
    with pytest.raises(InputError, match=r"several values[\s\S]*--labels"):
        mx.quantify(path)
    assert mx.quantify(path, labels=[2]).regions[0]["count"] == 1
    assert mx.quantify(path, labels=[1, 2]).regions[0]["count"] == 3
    assert mx.quantify(save("255.nii.gz", pvs_mask() * 255)).regions[0]["count"] == 3
    probability = save("p.nii.gz", np.where(pvs_mask(), 0.3, 0.01).astype(np.float32))
    with pytest.raises(InputError, match=r"not integers[\s\S]*--threshold"):
        mx.quantify(probability)
    found = mx.quantify(probability, threshold=0.2)
    assert found.regions[0]["count"] == 3 and found.clusters[0]["probability_mean"] == pytest.approx(0.3)
    with pytest.raises(InputError, match="no probability"):
        mx.quantify(save("big.nii.gz", pvs_mask() * 7.5), threshold=0.5)
    with pytest.raises(InputError, match="not a probability"):
        mx.quantify(probability, threshold=2)


def test_a_probability_of_another_grid(save):
    other = AFFINE.copy()
    other[0, 3] += 30
    mask = save("a_mask.nii.gz", pvs_mask())
    with pytest.raises(InputError, match="probability map has another affine"):
        mx.quantify(mask, save("p.nii.gz", np.where(pvs_mask(), 0.5, 0.1).astype(np.float32), other))


def test_what_is_missing(tmp_path, cohort):
    masks, _ = cohort
    with pytest.raises(InputError, match="no masks"):
        mx.quantify(tmp_path / "nowhere", out=tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no masks"):
        mx.quantify(tmp_path / "empty", out=tmp_path / "out")
    with pytest.raises(InputError, match="output folder"):
        mx.quantify(masks)
    with pytest.raises(InputError, match="no region maps"):
        mx.quantify(masks, None, tmp_path / "nowhere", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_that_steer_a_terminal_or_a_spreadsheet(save, tmp_path, capsys):
    save("masks/=1+1_mask.nii.gz", pvs_mask())
    save("masks/\x1b[31mred_mask.nii.gz", pvs_mask())
    mx.quantify(tmp_path / "masks", out=tmp_path / "out")
    assert "\x1b" not in capsys.readouterr().out
    cells = [line.split("\t")[0] for line in (tmp_path / "out" / "pvs.tsv").read_text().splitlines()[1:]]
    assert "'=1+1" in cells and "\x1b[31mred" in cells


def test_the_dictionaries_are_those_beside_the_tables(cohort, tmp_path):
    mx.quantify(cohort[0], out=tmp_path / "out")
    for name, text in dictionaries().items():
        assert (tmp_path / "out" / name).read_text() == text


def test_the_commands_of_the_page_run(save, tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs" / "measures.md").read_text()
    save("segmented/sub-01_T2w_mask.nii.gz", pvs_mask())
    monkeypatch.chdir(tmp_path)
    lines = "".join(re.findall(r"```bash\n(.*?)```", page, re.S)).splitlines()
    (plain, atlas) = [shlex.split(line)[1:] for line in lines]
    assert command_line.main(plain) == 0 and (tmp_path / "measured" / "pvs.tsv").is_file()
    assert command_line.main(atlas) == 2 and "scans are missing" in capsys.readouterr().err
    (python,) = re.findall(r"```python\n(.*?)```", page, re.S)
    space: dict = {}
    exec(compile(python, "measures.md", "exec"), space)
    assert space["found"].regions[0]["count"] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": [0]}, "besides the background"),
        ({"region_names": "freesurfer"}, "names of regions are for region maps"),
    ],
)
def test_options_that_cannot_apply(options, message):
    with pytest.raises(InputError, match=message):
        mx.quantify(pvs_mask(), **options)
