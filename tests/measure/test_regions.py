"""Region maps: names, values, grids, and what is said when they do not fit."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.errors import InputError
from mednext_jax.measure.regions import RegionMaps

pytestmark = pytest.mark.core
AFFINE = np.diag([0.8, 0.8, 1.0, 1.0])


def maps(folder, names, shape=(4, 5, 6), affine=AFFINE):
    (folder / "regions.json").write_text(json.dumps(names))
    values = np.arange(np.prod(shape)).reshape(shape) % 4
    nib.save(nib.Nifti1Image(values.astype(np.uint8), affine), folder / "sub-1.nii.gz")
    return values


def scan(shape=(4, 5, 6), affine=AFFINE):
    return nib.Nifti1Image(np.zeros(shape, np.float32), affine)


def test_read(tmp_path):
    values = maps(tmp_path, {"basal ganglia": 2, "white matter": 1})
    regions = RegionMaps.open(tmp_path)
    assert regions.names == {1: "white matter", 2: "basal ganglia"}
    found, odd = regions.read("sub-1", scan())
    np.testing.assert_array_equal(found, np.where(values == 3, 0, values))
    assert odd == []


@pytest.mark.parametrize(
    "text", ["", "[1, 2]", "{}", '{"wm": 0}', '{"wm": 1.5}', '{"wm": true}', '{"a": 1, "b": 1}', '{"all": 1}']
)
def test_names_that_do_not_fit(tmp_path, text):
    (tmp_path / "regions.json").write_text(text)
    with pytest.raises(InputError, match="regions.json"):
        RegionMaps.open(tmp_path)


def test_endings_in_any_letters_hidden_files_and_doubles(tmp_path):
    maps(tmp_path, {"wm": 1})
    (tmp_path / "sub-1.nii.gz").rename(tmp_path / "sub-1.NII.GZ")
    (tmp_path / "._sub-1.nii.gz").write_bytes(b"Mac OS X")
    assert RegionMaps.open(tmp_path).path("sub-1") == tmp_path / "sub-1.NII.GZ"
    (tmp_path / "sub-1.nii").touch()
    with pytest.raises(InputError, match=r"several region maps[\s\S]*sub-1\.NII\.GZ, sub-1\.nii"):
        RegionMaps.open(tmp_path).read("sub-1", scan())


def test_missing_names_and_maps(tmp_path):
    with pytest.raises(InputError, match="missing"):
        RegionMaps.open(tmp_path)
    maps(tmp_path, {"wm": 1})
    with pytest.raises(InputError, match=r"sub-2\.nii\.gz"):
        RegionMaps.open(tmp_path).read("sub-2", scan())


@pytest.mark.parametrize(
    "shape, affine, said",
    [((4, 5, 7), AFFINE, "shape"), ((4, 5, 6), np.diag([-0.8, 0.8, 1, 1.0]), "orientation")],
)
def test_another_grid_is_refused(tmp_path, shape, affine, said):
    maps(tmp_path, {"wm": 1})
    with pytest.raises(InputError, match=said):
        RegionMaps.open(tmp_path).read("sub-1", scan(shape, affine))


def test_rounding_of_the_affine_is_no_other_grid(tmp_path):
    maps(tmp_path, {"wm": 1})
    RegionMaps.open(tmp_path).read("sub-1", scan(affine=AFFINE + 1e-4))


def test_a_value_in_quotes_is_a_number(tmp_path):
    (tmp_path / "regions.json").write_text('{"wm": "2", "bg": 1}')
    assert RegionMaps.open(tmp_path).names == {1: "bg", 2: "wm"}
