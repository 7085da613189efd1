"""One simulated scan, and the data set."""

from __future__ import annotations

import csv
import json

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.errors import InputError
from mednext_jax.simulate.acquisition import draw_sites, tissue_signal
from mednext_jax.simulate.placement import PvsDistribution
from mednext_jax.simulate.simulate import simulate
from mednext_jax.simulate.subject import simulate_subject
from mednext_jax.simulate.template import load_template

pytestmark = pytest.mark.core

VOXEL = 1.5  # mm; coarse, for speed
ASKED = PvsDistribution(white_matter=(60, 80), basal_ganglia=(8, 12), width_mm=(1.0, 3.0))


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Three subjects from two sites; the calls of `progress`."""
    calls = []
    out = simulate(
        tmp_path_factory.mktemp("simulated") / "Dataset001_PVS",
        subjects=3,
        sites=2,
        seed=7,
        voxel_size=VOXEL,
        pvs=ASKED,
        progress=lambda done, total: calls.append((done, total)),
    )
    return out, calls


def test_files_are_an_nnunet_raw_data_set(dataset):
    out, calls = dataset
    content = json.loads((out / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "T2w"}
    assert content["labels"] == {"background": 0, "pvs": 1}
    assert content["numTraining"] == 3
    assert content["file_ending"] == ".nii.gz"
    cases = ["sub-001", "sub-002", "sub-003"]
    assert sorted(p.name for p in (out / "imagesTr").iterdir()) == [f"{c}_0000.nii.gz" for c in cases]
    assert sorted(p.name for p in (out / "labelsTr").iterdir()) == [f"{c}.nii.gz" for c in cases]
    assert sorted(p.name for p in (out / "regions").iterdir()) == ["regions.json"] + [f"{c}.nii.gz" for c in cases]
    assert json.loads((out / "regions" / "regions.json").read_text()) == {"white matter": 1, "basal ganglia": 2}
    assert calls == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("case", ["sub-001", "sub-002", "sub-003"])
def test_images_of_a_case_agree(dataset, case):
    out, _ = dataset
    files = [
        out / "imagesTr" / f"{case}_0000.nii.gz",
        out / "labelsTr" / f"{case}.nii.gz",
        out / "regions" / f"{case}.nii.gz",
    ]
    images = [nib.load(file) for file in files]
    assert [i.get_data_dtype() for i in images] == [np.int16, np.uint8, np.uint8]
    for image in images:
        np.testing.assert_array_equal(image.affine, images[0].affine)
        assert image.shape == images[0].shape
        assert image.header.get_xyzt_units()[0] == "mm"
        assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (1, 1)
        np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-4)
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    scan, label, regions = (np.asarray(i.dataobj) for i in images)
    assert set(np.unique(label)) == {0, 1}
    assert set(np.unique(regions)) == {0, 1, 2}
    assert (scan[(label > 0) | (regions > 0)] > 0).all()  # both lie inside the brain
    assert (regions[label > 0] > 0).all()
    for axis in range(3):  # cut to 4 voxels around the brain
        seen = np.flatnonzero((scan > 0).any(tuple(a for a in range(3) if a != axis)))
        assert (seen[0], seen[-1]) == (4, scan.shape[axis] - 5)


def test_truth_agrees_with_labels_and_participants(dataset):
    out, _ = dataset
    truth = table(out / "truth.tsv")
    participants = table(out / "participants.tsv")
    assert [p["participant_id"] for p in participants] == ["sub-001", "sub-002", "sub-003"]
    assert [p["site"] for p in participants] == ["site-1", "site-2", "site-1"]
    for person in participants:
        rows = [r for r in truth if r["case"] == person["participant_id"]]
        count = {name: sum(r["region"] == name for r in rows) for name in ("white matter", "basal ganglia")}
        assert len(rows) == int(person["n_pvs"]) == sum(count.values())
        assert 60 <= count["white matter"] == int(person["n_pvs_white_matter"]) <= 80
        assert 8 <= count["basal ganglia"] == int(person["n_pvs_basal_ganglia"]) <= 12
        assert float(person["pvs_volume_mm3"]) == pytest.approx(sum(float(r["volume_mm3"]) for r in rows), rel=1e-3)

        image = nib.load(out / "labelsTr" / f"{person['participant_id']}.nii.gz")
        label, regions = (
            np.asarray(image.dataobj),
            np.asarray(nib.load(out / "regions" / f"{person['participant_id']}.nii.gz").dataobj),
        )
        assert sum(int(r["voxels"]) for r in rows) >= label.sum() > 0  # a voxel may be shared by two tubes
        assert int(person["n_pvs_labelled"]) == sum(int(r["voxels"]) > 0 for r in rows)
        to_voxel = np.linalg.inv(image.affine)
        for row in (r for r in rows if float(r["tip_width_mm"]) > 1.5):
            middle = np.rint(to_voxel @ [*(float(row[f"{a}_mm"]) for a in "xyz"), 1])[:3].astype(int)
            assert label[tuple(slice(m - 1, m + 2) for m in middle)].any()
            assert regions[tuple(middle)] == {"white matter": 1, "basal ganglia": 2}[row["region"]]


def test_a_subject_is_the_same_bytes_alone_or_among_others(dataset, tmp_path):
    out, _ = dataset
    again = simulate(tmp_path / "again", subjects=1, sites=2, seed=7, voxel_size=VOXEL, pvs=ASKED, workers=1)
    for file in sorted(again.glob("*/*.nii.gz")):
        assert file.read_bytes() == (out / file.relative_to(again)).read_bytes(), file.name
    assert table(again / "truth.tsv") == [r for r in table(out / "truth.tsv") if r["case"] == "sub-001"]


def test_another_seed_is_another_subject(dataset):
    out, _ = dataset
    other = simulate_subject(0, draw_sites(8, 1, "T2w", VOXEL)[0], "T2w", seed=8, pvs=ASKED)
    truth = [float(r["volume_mm3"]) for r in table(out / "truth.tsv") if r["case"] == "sub-001"]
    assert not np.isclose(truth[0], [p.tube.volume for p in other.placed]).any()
    assert other.image.shape != nib.load(out / "imagesTr" / "sub-001_0000.nii.gz").shape


def test_sites_and_subjects_differ(dataset):
    out, _ = dataset
    one, two, three = (nib.load(out / "imagesTr" / f"sub-00{n}_0000.nii.gz") for n in (1, 2, 3))
    assert np.allclose(one.header.get_zooms(), VOXEL)
    assert np.allclose(three.header.get_zooms(), VOXEL)
    assert not np.allclose(two.header.get_zooms(), VOXEL, atol=0.01)
    assert one.shape != three.shape
    participants = table(out / "participants.tsv")
    assert participants[0]["snr"] == participants[2]["snr"] != participants[1]["snr"]


@pytest.fixture(scope="module")
def wide_tubes():
    """One subject in both contrasts at 1 mm: tubes so wide that their middle voxels are all PVS."""
    asked = PvsDistribution(
        white_matter=(40, 40), basal_ganglia=(0, 0), width_mm=(2.6, 3.0), length_mm=(6, 12), taper=(0.9, 1.0)
    )
    sites = {c: draw_sites(0, 1, c, 1.0)[0] for c in ("T2w", "T1w")}
    return {c: simulate_subject(0, site, c, seed=1, pvs=asked) for c, site in sites.items()}


@pytest.mark.parametrize("contrast", ["T2w", "T1w"])
def test_perivascular_spaces_have_the_asked_contrast(wide_tubes, contrast):
    # In the middle of a wide tube the signal is tissue + strength * (fluid - tissue).
    subject = wide_tubes[contrast]
    template = load_template()
    signal = tissue_signal(template, contrast, subject.site, np.zeros_like(template.t1))
    image = subject.image.astype(float)
    got = []
    for placed in subject.placed:
        line = subject.grid.voxels(placed.tube.points(0.5)[3:-3])
        middle = line[len(line) // 2]
        box = tuple(slice(c - 4, c + 5) for c in middle)
        tissue = np.median(image[box][(subject.label[box] == 0) & (subject.regions[box] == 1)])
        fluid = signal.fluid * tissue / signal.white  # under the same shading, nearly
        got.append((image[tuple(line.T)].mean() - tissue) / (fluid - tissue))
    # White matter is not all of one signal, and the middle line is rarely in the middle of voxels.
    assert len(got) == 40
    assert np.mean(np.array(got) - subject.strength) == pytest.approx(0, abs=0.1)
    assert np.corrcoef(got, subject.strength)[0, 1] > (0.85 if contrast == "T2w" else 0.6)
    brighter = image[subject.label > 0].mean() > image[(subject.regions == 1) & (subject.label == 0)].mean()
    assert brighter == (contrast == "T2w")


def test_labels_of_wide_tubes_have_their_volume(wide_tubes):
    # Voxels of 1 mm that are more than half full, of tubes of 2.6 to 3 mm: what is lost equals what is gained.
    subject = wide_tubes["T2w"]
    volume = sum(p.tube.volume for p in subject.placed)
    assert subject.label.sum() == subject.voxels.sum()
    assert subject.label.sum() * subject.grid.spacing.prod() == pytest.approx(volume, rel=0.1)


def test_both_contrasts_show_the_same_brain_and_spaces(wide_tubes):
    one, two = wide_tubes.values()
    np.testing.assert_array_equal(one.label, two.label)
    np.testing.assert_array_equal(one.regions, two.regions)
    assert [p.tube.volume for p in one.placed] == [p.tube.volume for p in two.placed]


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"contrast": "FLAIR"}, "contrast"),
        ({"contrast": "t2w"}, "contrast"),
        ({"subjects": 0}, "subjects"),
        ({"subjects": 2.5}, "subjects"),
        ({"sites": 0}, "sites"),
        ({"seed": -1}, "seed"),
        ({"workers": 0}, "workers"),
        ({"voxel_size": 0.3}, "voxel size"),
        ({"voxel_size": float("nan")}, "voxel size"),
    ],
)
def test_wrong_arguments_are_named_and_write_nothing(tmp_path, wrong, match):
    with pytest.raises(InputError, match=match):
        simulate(tmp_path / "out", **{"subjects": 1, **wrong})
    assert not list(tmp_path.iterdir())


def test_an_existing_output_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="exists"):
        simulate(tmp_path, subjects=1)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_failure_leaves_nothing_behind(tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    asked = PvsDistribution(white_matter=(1, 1), basal_ganglia=(0, 0))
    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path / "out", subjects=2, voxel_size=3.0, pvs=asked, progress=stop)
    assert not list(tmp_path.iterdir())
