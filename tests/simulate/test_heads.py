"""Whole scans of the generator, and the command that writes them."""

from __future__ import annotations

import csv
import dataclasses
import functools
import json

import jax
import nibabel as nib
import numpy as np
import pytest

from mednext_jax.errors import InputError
from mednext_jax.io.nnunet_raw import read_nnunet_raw
from mednext_jax.main import main
from mednext_jax.preprocess.normalise import find_scaling
from mednext_jax.simulate import heads
from mednext_jax.simulate.heads import simulate_heads
from tests.simulate.conftest import PLAIN, QUICKLY
from tests.simulate.heads import head_map

pytestmark = pytest.mark.core

SEED = 5
AS_IT_IS = dataclasses.replace(PLAIN, edge_offset=(0.0, 0.0), lesions_as_output=True)


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def voxels(path):
    return np.asarray(nib.load(path).dataobj)


@pytest.fixture(scope="module")
def simulated(small_head, tmp_path_factory):
    """T1w, T2w, FLAIR, and a T1w scan with its skull; the calls of `progress`; what the generator made for each."""
    calls, made = [], {}

    def write(folder, case, scan, config, write=heads._write):
        made[case] = scan
        write(folder, case, scan, config)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(heads, "_write", write)
        patched.setattr(jax, "jit", functools.partial(jax.jit, compiler_options=QUICKLY))
        out = simulate_heads(
            tmp_path_factory.mktemp("simulated") / "out",
            4,
            "mixed",
            SEED,
            AS_IT_IS,
            [small_head],
            progress=lambda done, total: calls.append((done, total)),
        )
    return out, calls, made


@pytest.fixture(scope="module")
def dataset(simulated):
    return simulated[:2]


def test_files_are_an_nnunet_raw_data_set(dataset):
    out, calls = dataset
    raw = read_nnunet_raw(out)
    cases = ["sub-001_T1w", "sub-002_T2w", "sub-003_FLAIR", "sub-004_T1w"]
    assert [case.id for case in raw.cases] == cases
    assert not [problem for problem in raw.problems if problem.severity == "E"]
    content = json.loads((out / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "pvs": [1], "lesion": [2], "ignore": 3}
    assert content["regions_class_order"] == [1, 2] and content["numTraining"] == 4
    assert json.loads((out / "regions" / "regions.json").read_text()) == {
        "white matter": 1,
        "basal ganglia": 2,
        "hippocampus": 3,
        "midbrain": 4,
    }
    assert calls == [(n, 4) for n in (1, 2, 3, 4)]


def test_tables_say_what_was_painted(dataset):
    out, _ = dataset
    truth = table(out / "truth.tsv")
    for row in table(out / "participants.tsv"):
        case = row["participant_id"]
        mine = [tube for tube in truth if tube["case"] == case]
        label, regions = (voxels(out / part / f"{case}.nii.gz") for part in ("labelsTr", "regions"))
        assert int(row["n_pvs"]) == len(mine) > 20
        assert int(row["labelled_voxels"]) == (label == 1).sum() > 20
        assert row["acquired_mm"] == "1.00x1.00x1.00" and row["anatomy"] == "small"
        inside = {int(n) for n in np.unique(regions[label == 1])}
        assert inside <= {1, 2, 3, 4}
        # Tubes overlap and are cut at the edge of their tissue: less is filled than their volumes together.
        volume = sum(float(tube["volume_mm3"]) for tube in mine)
        assert 0.5 * volume < float(row["pvs_volume_mm3"]) <= 1.02 * volume
        back = np.linalg.inv(nib.load(out / "labelsTr" / f"{case}.nii.gz").affine)
        at = np.array([[float(tube[f"{axis}_mm"]) for axis in "xyz"] + [1] for tube in mine]) @ back.T
        names = json.loads((out / "regions" / "regions.json").read_text())
        nearest = np.rint(at[:, :3])
        told = np.array([names[tube["region"]] for tube in mine])
        # Middles are written to 0.01 mm, so that one between two voxels may be read as in either.
        clear = (np.abs(np.abs(at[:, :3] - nearest) - 0.5) > 0.006).all(1)
        assert clear.mean() > 0.8
        np.testing.assert_array_equal(regions[tuple(nearest[clear].astype(int).T)], told[clear])
        counted = [int(row[f"n_pvs_{name.replace(' ', '_')}"]) for name in names]
        assert counted == [(told == number).sum() for number in names.values()]


def test_every_fourth_head_keeps_its_skull_and_the_others_are_brains(dataset):
    out, _ = dataset
    shares = [(voxels(path) > 0).mean() for path in sorted((out / "imagesTr").iterdir())]
    assert max(shares[:3]) < 0.4 and shares[3] == 1


@pytest.mark.parametrize("case", ["sub-001_T1w", "sub-002_T2w", "sub-003_FLAIR"])
def test_a_patch_is_normalised_as_its_whole_scan_is(simulated, case):
    """By the tissues' shares in the generator, and over all voxels by the preprocessing of the file."""
    out, _, made = simulated
    scan = (voxels(out / "imagesTr" / f"{case}_0000.nii.gz") / heads._SCALE).astype(np.float32)
    (scaling,) = find_scaling(scan[..., None], ["zscore_bright_fluid"], scan > 0, use_mask=True)
    brain = made[case].brain
    slope, offset = np.polyfit(made[case].raw[brain].astype(float), made[case].image[brain], 1)
    mean, deviation = -offset / slope, 1 / slope
    assert np.sign(deviation) == np.sign(scaling.deviation) == (1 if case.endswith("T2w") else -1)
    # Partial volumes, and the edge of the deformed brain, which the shares do not have.
    assert mean == pytest.approx(scaling.mean, abs=0.25 * abs(scaling.deviation))
    assert deviation == pytest.approx(scaling.deviation, rel=0.2)


def test_arguments_out_of_range_are_named(small_head, tmp_path):
    for changed, words in (
        ({"contrast": "PD"}, "no such contrast"),
        ({"subjects": 0}, "number subjects"),
        ({"seed": -1}, "number seed"),
    ):
        asked = {"subjects": 1, "contrast": "T1w", "seed": 0, **changed}
        with pytest.raises(InputError, match=words):
            simulate_heads(tmp_path / "out", config=AS_IT_IS, anatomies=[small_head], **asked)
    assert not (tmp_path / "out").exists()


ANATOMY = ["simulate", "--anatomy", "maps", "--out", "out", "--subjects", "1"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([*ANATOMY, "--sites", "2"], "--sites with --anatomy"),
        ([*ANATOMY, "--voxel-size", "1"], "--voxel-size with --anatomy"),
        ([*ANATOMY, "--regions", "maps"], "--regions with --anatomy"),
        ([*ANATOMY, "--on", "scans", "--regions", "maps"], "--anatomy with --on"),
        (["simulate", "--on", "scans", "--regions", "maps", "--out", "out", "--sites", "2"], "--sites with --on"),
        (["simulate", "--anatomy", "maps", "--out", "out"], "--subjects"),
        (["simulate", "--out", "out", "--subjects", "1", "--contrast", "mixed"], "T1w or T2w"),
        (ANATOMY, "no such folder of label maps"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path, monkeypatch, capsys, command, words):
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_asks_for_what_its_options_say(tmp_path, monkeypatch, capsys):
    maps, asked = tmp_path / "maps", []
    maps.mkdir()
    nib.Nifti1Image(head_map().transpose(2, 1, 0), np.eye(4)).to_filename(maps / "one.nii.gz")
    monkeypatch.setattr(heads, "simulate_heads", lambda *arguments: asked.append(arguments))
    command = ["simulate", "--anatomy", str(maps), "--subjects", "3", "-o", str(tmp_path / "out"), "--seed", "4"]
    assert main(command) == 0 and main([*command, "--contrast", "FLAIR"]) == 0
    assert [(n, contrast, seed) for _, n, contrast, seed, *_ in asked] == [(3, "mixed", 4), (3, "FLAIR", 4)]
    assert [one.name for one in asked[0][-1]] == ["one"]


@pytest.mark.slow
def test_the_command_simulates_with_all_that_the_defaults_draw(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labelmaps").mkdir()
    nib.Nifti1Image(head_map().transpose(2, 1, 0), np.eye(4)).to_filename("labelmaps/one.nii.gz")
    assert main(["simulate", "--anatomy", "labelmaps", "--subjects", "1", "--contrast", "T2w", "-o", "heads"]) == 0
    label = voxels(tmp_path / "heads" / "labelsTr" / "sub-001_T2w.nii.gz")
    assert (label == 1).sum() > 50 and set(np.unique(label)) <= {0, 1, 2, 3}
