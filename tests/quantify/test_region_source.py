"""Region maps from wherever they lie, and maps that are of something else."""

from __future__ import annotations

import shutil

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.errors import InputError
from mednext_jax.quantify.region_source import open_regions
from tests.measure.brain import AFFINE, brain
from tests.quantify.conftest import pvs_mask

pytestmark = pytest.mark.core


def image(mask=None, affine=AFFINE):
    return nib.Nifti1Image(pvs_mask() if mask is None else mask, affine)


def names(found):
    return {s.region for s in found.brain.structures} - {""}


def test_a_folder_of_maps_with_freesurfer_s_numbers(cohort):
    source = open_regions(cohort[1], single=False)
    found = source("sub-1", image(), None)
    assert {"white matter", "basal ganglia", "thalamus"} <= names(found) and found.notes == ()
    with pytest.raises(InputError, match=r"no region map[\s\S]*sub-9"):
        source("sub-9", image(), None)


@pytest.mark.parametrize("name", ["sub-1_dseg.nii.gz", "sub-1_synthseg.nii", "sub-1.mgz", "sub-1_aparc+aseg.mgz"])
def test_names_of_maps(tmp_path, save, name):
    if name.endswith(".mgz"):
        nib.save(nib.MGHImage(brain().astype(np.int32), AFFINE), tmp_path / name)
    else:
        save(name, brain())
    assert "thalamus" in names(open_regions(tmp_path)("sub-1", image(), None))


def test_a_folder_as_freesurfer_leaves_it(tmp_path):
    (tmp_path / "sub-1" / "mri").mkdir(parents=True)
    nib.save(nib.MGHImage(brain(lobes=True).astype(np.int32), AFFINE), tmp_path / "sub-1" / "mri" / "wmparc.mgz")
    nib.save(nib.MGHImage(brain().astype(np.int32), AFFINE), tmp_path / "sub-1" / "mri" / "aparc+aseg.mgz")
    found = open_regions(tmp_path, single=False)("sub-1_ses-2", image(), None)
    assert {s.lobe for s in found.brain.structures} == {"", "frontal", "occipital"}


def test_a_map_of_another_grid_is_taken_at_each_place(save):
    fine = AFFINE.copy()
    fine[:3, :3] /= 2
    fine[:3, 3] -= 0.5
    path = save("fine.nii.gz", brain().repeat(2, 0).repeat(2, 1).repeat(2, 2), fine)
    coarse = open_regions(save("map.nii.gz", brain()))("a", image(), None).brain
    found = open_regions(path)("a", image(), None).brain
    points = nib.affines.apply_affine(AFFINE, np.argwhere(pvs_mask()))
    for brain_ in (coarse, found):
        assert len(points) == len(brain_.codes_at(points))
    regions = [[b.structures[c].region for c in b.codes_at(points)] for b in (coarse, found)]
    assert regions[0] == regions[1]


def test_a_lookup_table_beside_the_maps_or_named(save, tmp_path, write_json):
    tissue = np.where(brain() > 0, 1, 0).astype(np.uint8)
    tissue[20:][tissue[20:] > 0] = 2
    path = save("m/map.nii.gz", tissue)
    with pytest.raises(InputError, match=r"no names[\s\S]*--region-names"):
        open_regions(path)("a", image(), None)
    table = write_json("m/regions.json", {"lh-brain": 1, "rh-brain": 2})
    assert names(open_regions(path)("a", image(), None)) == {"brain"}
    shutil.move(table, tmp_path / "elsewhere.json")
    assert names(open_regions(path, tmp_path / "elsewhere.json")("a", image(), None)) == {"brain"}
    with pytest.raises(InputError, match="missing"):
        open_regions(path, tmp_path / "nowhere.json")


def test_unknown_values_are_said_and_count_as_nothing(save, write_json):
    values = brain()
    values[5:7, 5, 5] = 600
    found = open_regions(save("map.nii.gz", values))("a", image(), None)
    (note,) = found.notes
    assert "600 (2 voxels)" in note
    table = write_json("t.json", {"nothing of this": 9999})
    with pytest.raises(InputError, match="none of the values"):
        open_regions(save("map.nii.gz", values), table)("a", image(), None)


def test_a_map_of_another_subject(save):
    far = AFFINE.copy()
    far[:3, 3] += 300
    with pytest.raises(InputError, match="elsewhere in space"):
        open_regions(save("far.nii.gz", brain(), far))("a", image(), None)
    everywhere = np.zeros((40, 40, 40), np.uint8)
    everywhere[::3, :2] = everywhere[::3, 38:] = 1
    with pytest.raises(InputError, match="not lie where the PVS are"):
        open_regions(save("map.nii.gz", brain()))("a", image(everywhere), None)


def test_a_map_whose_brain_is_not_the_scan_s(save):
    ball = ((np.indices((40, 40, 40)) - 19.5) ** 2).sum(0) < 17**2
    inside = (brain() > 0) & ball
    good = save("good.nii.gz", np.where(inside, 100.0, 0).astype(np.float32))
    shifted = np.roll(inside, 4, 1) & (np.arange(40) > 3)[:, None]
    moved = save("moved.nii.gz", np.where(shifted, 100.0, 0).astype(np.float32))
    small = np.zeros_like(inside)
    small[12:28, 12:28, 12:28] = True
    other = save("other.nii.gz", np.where(small, 100.0, 0).astype(np.float32))
    source = open_regions(save("map.nii.gz", brain() * ball))
    found = source("a", image(), good)
    assert "thalamus" in names(found) and found.notes == () and found.overlap == 1
    assert source("a", image(), None).overlap is None
    found = source("a", image(), moved)
    ours, theirs = inside[::2, ::2, ::2], shifted[::2, ::2, ::2]
    expected = 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum())
    assert found.overlap == pytest.approx(expected) and 0.8 < expected < 0.9
    assert f"overlaps that of the scan by {expected:.2f} (Dice): is it this subject's?" in found.notes[0]
    with pytest.raises(InputError, match=r"brain of the region map[\s\S]*Dice"):
        source("a", image(), other)


def test_one_map_for_many_and_no_map_at_all(save, tmp_path):
    path = save("map.nii.gz", brain())
    with pytest.raises(InputError, match="several scans"):
        open_regions(path, single=False)
    with pytest.raises(InputError, match="no region maps"):
        open_regions(tmp_path / "nowhere")
    for name in ("sub-1.nii.gz", "sub-1_dseg.nii.gz"):
        save(f"two/{name}", brain())
    with pytest.raises(InputError, match="several region maps"):
        open_regions(tmp_path / "two", single=False)("sub-1", image(), None)
    (tmp_path / "two" / "sub-2.mgz").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="sub-2"):
        open_regions(tmp_path / "two", single=False)("sub-2", image(), None)
