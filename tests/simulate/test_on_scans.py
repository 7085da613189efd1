"""`simulate --on`: a data set of real scans with painted tubes."""

from __future__ import annotations

import csv
import json

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.errors import InputError, WorkError
from mednext_jax.io.nnunet_raw import read_nnunet_raw
from mednext_jax.main import main
from mednext_jax.simulate.on_scans import simulate_on
from mednext_jax.simulate.placement import PvsDistribution
from tests.simulate.heads import AFFINE, region_map, save, scan_of

pytestmark = pytest.mark.core

FEW = PvsDistribution(white_matter=(12, 12), basal_ganglia=(2, 2))
VALUES = region_map()


@pytest.fixture
def folders(tmp_path):
    scans, maps = tmp_path / "scans", tmp_path / "maps"
    scans.mkdir()
    maps.mkdir()
    for number, case in enumerate(("sub-1_T1w", "sub-2_T1w")):
        save(scans / f"{case}.nii.gz", scan_of(VALUES, noise=20, seed=number))
        save(maps / f"{case}.nii.gz", VALUES)
    return scans, maps


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_files_are_an_nnunet_raw_data_set_with_exact_truth(folders, tmp_path):
    scans, maps = folders
    out = simulate_on(tmp_path / "out", scans, maps, seed=5, pvs=FEW)
    raw = read_nnunet_raw(out)
    assert [case.id for case in raw.cases] == ["sub-1_T1w", "sub-2_T1w"]
    assert not [problem for problem in raw.problems if problem.severity == "E"]
    assert json.loads((out / "dataset.json").read_text())["channel_names"] == {"0": "T1w"}
    truth = table(out / "truth.tsv")
    people = table(out / "participants.tsv")
    for person in people:
        case = person["participant_id"]
        rows = [row for row in truth if row["case"] == case]
        assert len(rows) == int(person["n_pvs"]) == 14
        label = nib.load(out / "labelsTr" / f"{case}.nii.gz")
        image = nib.load(out / "imagesTr" / f"{case}_0000.nii.gz")
        np.testing.assert_allclose(label.affine, AFFINE)
        np.testing.assert_allclose(image.affine, AFFINE)
        assert sum(int(row["voxels"]) for row in rows) == np.asarray(label.dataobj).sum()
        before = np.asarray(nib.load(scans / f"{case}.nii.gz").dataobj)
        change = np.asarray(image.dataobj) - before
        for row in rows:  # positions are in the mm of the affine, on this flipped grid too
            middle = [float(row[f"{axis}_mm"]) for axis in "xyz"]
            voxel = np.rint(nib.affines.apply_affine(np.linalg.inv(AFFINE), middle)).astype(int)
            assert change[tuple(voxel)] < -1
            assert {"region", "volume_mm3", "width_mm", "length_mm", "strength"} <= set(row)


def test_a_scan_does_not_depend_on_the_others(folders, tmp_path):
    scans, maps = folders
    both = simulate_on(tmp_path / "both", scans, maps, pvs=FEW)
    one = simulate_on(tmp_path / "one", scans / "sub-2_T1w.nii.gz", maps / "sub-2_T1w.nii.gz", pvs=FEW)
    name = "imagesTr/sub-2_T1w_0000.nii.gz"
    assert (both / name).read_bytes() == (one / name).read_bytes()


def test_one_bad_scan_stops_no_other(folders, tmp_path):
    scans, maps = folders
    (maps / "sub-1_T1w.nii.gz").unlink()
    with pytest.raises(WorkError, match="no region map") as error:
        simulate_on(tmp_path / "out", scans, maps, pvs=FEW)
    assert "SynthSeg" in str(error.value) and "--region" not in str(error.value)  # which the command has not
    assert [row["participant_id"] for row in table(tmp_path / "out" / "participants.tsv")] == ["sub-2_T1w"]
    assert len(list((tmp_path / "out" / "imagesTr").iterdir())) == 1


def with_map(values, affine=AFFINE):
    return lambda maps: save(maps / "sub-1_T1w.nii.gz", values, affine)


ELSEWHERE = AFFINE.copy()
ELSEWHERE[:3, 3] += 300
SHIFTED = AFFINE.copy()
SHIFTED[1, 3] += 25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_map(np.where(VALUES > 0, VALUES + 600, 0).astype(np.int16)), "values of the region map have no names"),
        (with_map(np.where(np.isin(VALUES, (2, 41)), 0, VALUES)), "values of the region map have no names"),
        (with_map(np.zeros_like(VALUES)), "values of the region map have no names"),
        (with_map(np.where(VALUES == 0, 502, VALUES).astype(np.int16)), "not FreeSurfer's: 502"),
        (with_map(VALUES, ELSEWHERE), "elsewhere in space"),
        (with_map(VALUES, SHIFTED), "not that of the scan"),
        (with_map(VALUES[::2, ::2, ::2], AFFINE @ np.diag([2, 2, 2, 1])), "too large to paint by"),
    ],
)
def test_a_map_that_does_not_fit_is_refused_and_nothing_is_written(folders, tmp_path, change, message):
    scans, maps = folders
    change(maps)
    with pytest.raises(InputError, match=message) as error:
        simulate_on(tmp_path / "out", scans / "sub-1_T1w.nii.gz", maps / "sub-1_T1w.nii.gz")
    problem = error.value.problems[0]
    assert problem.file
    assert problem.expected
    assert problem.found and problem.found.strip()
    assert problem.hint and "--region" not in problem.hint  # options of `quantify`
    assert not (tmp_path / "out").exists()


def test_the_command_line(folders, tmp_path, capsys):
    scans, maps = folders
    assert main(["simulate", "--on", str(scans), "--regions", str(maps), "-o", str(tmp_path / "out")]) == 0
    assert len(table(tmp_path / "out" / "participants.tsv")) == 2
    for extra, message in (
        (["--on", str(scans)], "--regions"),
        (["--regions", str(maps), "--subjects", "2", "--contrast", "T1w"], "--regions without --on"),
        (["--on", str(scans), "--regions", str(maps), "--subjects", "2"], "--subjects with --on"),
        (["--on", str(scans), "--regions", "atlas"], "does not tell cortex"),
        (["--on", str(scans), "--regions", str(maps / "sub-1_T1w.nii.gz")], "a folder with each scan's own map"),
        (["--on", str(scans), "--regions", str(maps), "--contrast", "T2w"], "No scan is of the contrast"),
        (["--contrast", "T1w"], "--subjects"),
        (["--subjects", "1", "--contrast", "FLAIR"], "no such contrast"),
    ):
        assert main(["simulate", *extra, "-o", str(tmp_path / "other")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_scans_of_several_contrasts_need_its_name(folders, tmp_path):
    scans, maps = folders
    save(scans / "sub-3_T2w.nii.gz", scan_of(VALUES, "T2w"))
    with pytest.raises(InputError, match="do not tell one contrast"):
        simulate_on(tmp_path / "out", scans, maps)
    simulate_on(tmp_path / "out", scans, maps, contrast="T1w", pvs=FEW)
    assert len(table(tmp_path / "out" / "participants.tsv")) == 2
