"""Label maps of heads as anatomies, and what is wrong with those that are none."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from mednext_jax.errors import InputError
from mednext_jax.simulate import anatomy as places
from mednext_jax.simulate import tissues
from mednext_jax.simulate.anatomy import anatomy_of, read_anatomies, read_anatomy, stacked
from mednext_jax.simulate.generator_config import GeneratorConfig
from mednext_jax.simulate.heads import anatomies_of, digest, training_and_held_out
from tests.simulate.heads import head_map

pytestmark = pytest.mark.core


def save(path, values, zooms=(1.0, 1.0, 1.0), turn=None):
    """A map (d, h, w) as a file; `turn`: of its axes, as nibabel's orientation."""
    image = nib.Nifti1Image(values.transpose(2, 1, 0), np.diag([*zooms, 1.0]))
    if turn is not None:
        image = image.as_reoriented(nib.orientations.axcodes2ornt(turn))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.to_filename(path)
    return path


def test_a_head_is_cropped_around_its_brain_and_keeps_its_tissues(small_head):
    values = head_map()
    assert not small_head.brain_only
    assert small_head.tissue.dtype == np.uint8 and small_head.from_edge.dtype == np.int8
    for number, tissue in ((4, tissues.VENTRICLE), (16, tissues.BRAINSTEM), (12, tissues.BASAL_GANGLIA[2])):
        there = (small_head.tissue == tissue).sum()
        assert there == np.isin(values, (number, {4: 43, 12: 51}.get(number, number))).sum()
    brain = tissues.in_brain(small_head.tissue)
    for axis in range(3):
        ends = np.flatnonzero(brain.any(tuple(a for a in range(3) if a != axis)))[[0, -1]]
        np.testing.assert_array_equal(ends, (16, brain.shape[axis] - 17))


def test_the_edge_of_the_brain_is_measured_in_mm(small_head):
    brain = tissues.in_brain(small_head.tissue)
    inside, outside = (ndimage.distance_transform_edt(mask) for mask in (brain, ~brain))
    exact = np.where(brain, inside - 0.5, 0.5 - outside)
    near = np.abs(exact) < 8
    error = small_head.from_edge[near] / places.EDGE_UNITS - exact[near]
    assert np.abs(error).max() < 2.5 and abs(error.mean()) < 0.5  # distances of every second voxel


def test_places_lie_in_their_tissue_and_vessels_point_outwards(small_head):
    wanted = ((tissues.WHITE_MATTER,), tissues.BASAL_GANGLIA, (tissues.HIPPOCAMPUS,), (tissues.BRAINSTEM,))
    for kind, of in enumerate((*wanted, (tissues.CORTEX,))):
        assert np.isin(small_head.tissue[tuple(small_head.places[kind].T)], of).all(), kind
    np.testing.assert_allclose(np.linalg.norm(small_head.directions, axis=2), 1, atol=1e-5)
    middle = (np.array(small_head.tissue.shape) - 1) / 2
    away = small_head.places[places.IN_WHITE_MATTER] - middle
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    cosine = (away * small_head.directions[places.IN_WHITE_MATTER]).sum(1)
    assert np.median(cosine) > 0.85 and (cosine > 0).mean() > 0.9
    up = small_head.directions[places.IN_BASAL_GANGLIA][:, 0]
    assert (up > 0).all()  # perforators rise from below


def test_a_map_of_another_orientation_is_the_same_head(tmp_path, small_head):
    turned = read_anatomy(save(tmp_path / "turned.nii.gz", head_map(), turn=("P", "S", "L")))
    assert turned.sha256 == small_head.sha256 and turned.name == "turned"


def test_a_map_of_finer_voxels_is_brought_to_1_mm(tmp_path, small_head):
    fine = np.kron(head_map(), np.ones((1, 1, 2), np.int16))
    same = read_anatomy(save(tmp_path / "fine.nii.gz", fine, (0.5, 1.0, 1.0)))
    assert same.tissue.shape == small_head.tissue.shape
    assert (same.tissue == small_head.tissue).mean() > 0.97


def test_several_heads_become_arrays_of_one_shape(small_head):
    other = anatomy_of("other", head_map()[:, :, 4:-4].copy())
    small = other.tissue[:-4, 2:]
    assert small.size < small_head.tissue.size
    arrays = stacked([small_head, other])
    assert arrays["tissue"].shape[0] == 2 and arrays["heads"].all()
    np.testing.assert_allclose(arrays["shares"].sum(-1), 1, rtol=1e-5)
    brain = np.bincount(small_head.tissue[small_head.from_edge > 0], minlength=len(tissues.TISSUES))
    np.testing.assert_allclose(arrays["shares"][0, 1], brain / brain.sum(), rtol=1e-5)
    where = arrays["places"][1, places.IN_CORTEX].astype(int)
    assert (arrays["tissue"][1][tuple(where.T)] == tissues.CORTEX).all()


def broken(kind):
    values = head_map()
    if kind == "numbers":
        values[values > 0] += 700
    if kind == "white matter":
        values[np.isin(values, (2, 41))] = 3
    if kind == "ventricles":
        values[np.isin(values, (4, 43))] = 2
    if kind == "basal ganglia":
        values[np.isin(values, (12, 51))] = 2
    return values


@pytest.mark.parametrize(
    ("kind", "message", "more"),
    [
        ("numbers", "numbers that mean no tissue", "702"),
        ("white matter", "no whole brain to simulate in", "0.0 mL of white matter"),
        ("ventricles", "no whole brain to simulate in", "cortex, ventricles"),
        ("basal ganglia", "no whole brain to simulate in", "basal ganglia"),
    ],
)
def test_a_map_that_is_no_head_is_refused(tmp_path, kind, message, more):
    with pytest.raises(InputError, match=message) as error:
        read_anatomy(save(tmp_path / "map.nii.gz", broken(kind)))
    assert all(words in str(error.value) for words in (more, "map.nii.gz", "hint:     segment"))


def test_a_brain_without_hippocampus_and_brainstem_is_one(small_head):
    values = head_map()
    values[np.isin(values, (16, 17, 53))] = 2
    found = anatomy_of("fewer", values)
    for kind in (places.IN_HIPPOCAMPUS, places.IN_MIDBRAIN):
        assert (found.tissue[tuple(found.places[kind].T)] == tissues.WHITE_MATTER).all()


def test_voxels_of_2_mm_are_refused(tmp_path):
    with pytest.raises(InputError, match="too large or too small") as error:
        read_anatomy(save(tmp_path / "map.nii.gz", head_map()[::2, ::2, ::2], (2.0, 2.0, 2.0)))
    assert "2.00 x 2.00 x 2.00 mm" in str(error.value)


def test_a_few_unknown_voxels_are_air(small_head):
    values = head_map()
    values[0, 0, :20] = 777
    assert anatomy_of("few", values).sha256 == small_head.sha256


def test_every_broken_file_of_a_folder_is_named(tmp_path):
    folder = tmp_path / "maps"
    save(folder / "b.nii.gz", broken("white matter"))
    (folder / "c.nii.gz").write_bytes(b"no image")
    (folder / "notes.txt").write_text("not a map, and left alone")
    with pytest.raises(InputError) as error:
        read_anatomies(folder)
    assert [Path(problem.file).name for problem in error.value.problems] == ["b.nii.gz", "c.nii.gz"]


def test_folders_without_maps_are_refused(tmp_path):
    for path, found in ((tmp_path / "absent", "nothing"), (Path(__file__), "a file")):
        with pytest.raises(InputError, match=rf"no such folder.*\n.*\n.*\n  found:    {found}"):
            read_anatomies(path)
    with pytest.raises(InputError, match="holds no label map"):
        read_anatomies(tmp_path)


def test_some_heads_are_held_out_and_too_few_are_refused(tmp_path, small_head):
    for name in "ab":
        save(tmp_path / f"{name}.nii.gz", head_map())
    config = GeneratorConfig(anatomy=str(tmp_path), held_out=1)
    found = anatomies_of(config)
    training, validation = training_and_held_out(config, found)
    assert [[one.name for one in part] for part in (training, validation)] == [["a"], ["b"]]
    assert digest(found) == digest(found[::-1]) and digest(found) != digest(training)
    with pytest.raises(InputError, match="too few label maps") as error:
        anatomies_of(GeneratorConfig(anatomy=str(tmp_path), held_out=2))
    assert "more than 2" in str(error.value)


@pytest.mark.slow
def test_without_a_folder_the_template_is_the_anatomy():
    config = GeneratorConfig()
    (template,) = anatomies_of(config)
    assert template.name == "icbm-2009a" and template.brain_only
    share = np.bincount(template.tissue.ravel(), minlength=len(tissues.TISSUES)) / 1e6  # litres
    assert 0.35 < share[tissues.WHITE_MATTER] < 0.65 and 0.3 < share[tissues.CORTEX] < 0.9
    assert training_and_held_out(config, [template]) == ([template], [template])
