"""Region maps of a data set reach the prepared one, on its grid, and are checked with the other files."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.data.case_store import CaseStore
from mednext_jax.errors import InputError
from mednext_jax.prepare.prepare import prepare

pytestmark = pytest.mark.core


@pytest.fixture
def with_regions(raw_dataset):
    """A data set of three cases whose left half is region 1, right half 2, with a value 7 that has no name."""

    def write(folder="regions"):
        root = raw_dataset()
        (root / folder).mkdir()
        (root / folder / "regions.json").write_text(json.dumps({"white matter": 1, "basal ganglia": 2}))
        for path in (root / "labelsTr").iterdir():
            like = nib.load(path)
            values = np.ones(like.shape, np.uint8)  # (x, y, z); the first axis points left
            values[like.shape[0] // 2 :] = 2
            values[:, :, -6:] = 7
            nib.save(nib.Nifti1Image(values, like.affine), root / folder / path.name)
        return root

    return write


def test_region_maps_are_stored_on_the_prepared_grid(with_regions, tmp_path):
    prepare(with_regions(), tmp_path / "own", spacing=None, splits="kfold:3")
    store = CaseStore.open(tmp_path / "own")
    assert store.meta.regions == {"white matter": 1, "basal ganglia": 2}
    regions = store.regions("sub-00")  # the box [6:-6, 5:-7, 4:-4] of 36 x 40 x 34 voxels (x, y, z), x mirrored by RAS
    assert regions.shape == store.shape("sub-00") == (26, 28, 24)
    np.testing.assert_array_equal(np.unique(regions[-2:]), [0])
    np.testing.assert_array_equal(np.unique(regions[:-2, :, :12]), [2])
    np.testing.assert_array_equal(np.unique(regions[:-2, :, 12:]), [1])

    prepare(tmp_path / "raw", tmp_path / "fine", spacing=0.5, splits="kfold:3")
    fine = CaseStore.open(tmp_path / "fine").regions("sub-00")
    assert fine.shape == (52, 56, 48)
    np.testing.assert_array_equal(fine[::2, ::2, ::2], regions)


def test_a_changed_region_map_makes_its_case_anew(with_regions, tmp_path, capsys):
    root = with_regions()
    prepare(root, tmp_path / "prepared", spacing=None, splits="kfold:3")
    path = root / "regions" / "sub-01.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.full(image.shape, 2, np.uint8), image.affine), path)
    capsys.readouterr()
    prepare(root, tmp_path / "prepared", spacing=None, splits="kfold:3")
    assert "(1 written, 2 kept)" in capsys.readouterr().out
    assert np.unique(CaseStore.open(tmp_path / "prepared").regions("sub-01")).tolist() == [2]


def test_region_maps_elsewhere_and_none(with_regions, tmp_path):
    root = with_regions("territories")
    prepare(root, tmp_path / "without", spacing=None, splits="kfold:3")
    store = CaseStore.open(tmp_path / "without")
    assert store.meta.regions == {} and store.regions("sub-00") is None
    prepare(root, tmp_path / "with", spacing=None, splits="kfold:3", regions=root / "territories")
    assert CaseStore.open(tmp_path / "with").regions("sub-00") is not None


def test_missing_and_misplaced_region_maps_are_reported_together(with_regions, tmp_path):
    root = with_regions()
    (root / "regions" / "sub-00.nii.gz").unlink()
    nib.save(nib.Nifti1Image(np.ones((5, 5, 5), np.uint8), np.eye(4)), root / "regions" / "sub-02.nii.gz")
    with pytest.raises(InputError) as error:
        prepare(root, tmp_path / "prepared", spacing=None, splits="kfold:3")
    assert "A case has no region map" in str(error.value) and "sub-00.nii.gz" in str(error.value)
    assert "sub-02.nii.gz" in str(error.value) and "shape" in str(error.value)
    with pytest.raises(InputError, match=r"regions\.json"):
        prepare(root, tmp_path / "prepared", regions=root / "labelsTr")
    assert not (tmp_path / "prepared").exists()
