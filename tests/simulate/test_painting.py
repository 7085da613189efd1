"""Tubes painted into a scan of known parts."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from mednext_jax.errors import InputError
from mednext_jax.measure.freesurfer import FREESURFER
from mednext_jax.measure.parcellation import Parcellation
from mednext_jax.simulate.painting import PAINTED_REGIONS, paint_scan
from mednext_jax.simulate.placement import PvsDistribution
from tests.simulate.heads import AFFINE, SIGNALS, region_map, scan_of

pytestmark = pytest.mark.core

ASKED = PvsDistribution(white_matter=(25, 25), basal_ganglia=(6, 6), hippocampus=(2, 2), brainstem=(2, 2))
VALUES = region_map()
VOXEL = 1.2 * 1.2  # mm3
BRAIN = Parcellation.of(VALUES, AFFINE, FREESURFER)


def paint(scan, contrast="T1w", brain=BRAIN, seed=3, asked=ASKED):
    return paint_scan(nib.Nifti1Image(scan, AFFINE), brain, contrast, np.random.default_rng(seed), asked)


@pytest.fixture(scope="module", params=["T1w", "T2w"])
def painted(request):
    scan = scan_of(VALUES, request.param)
    return request.param, scan, paint(scan, request.param)


def test_tubes_lie_in_their_regions_of_the_map(painted):
    _, _, found = painted
    where = {"white matter": (2, 41), "basal ganglia": (12, 51), "hippocampus": (17, 53), "brainstem": (16,)}
    for name, value in PAINTED_REGIONS.items():
        np.testing.assert_array_equal(found.regions == value, np.isin(VALUES, where[name]))
    for one, (cells, share) in zip(found.placed, found.touched, strict=True):
        # 2 mm between the middle line and the edge of all regions: a tube of up to 3 mm stays in tissue.
        assert np.all(found.regions.reshape(-1)[cells[share > 0.5]] > 0)
        line = np.rint(one.tube.points(0.5) / [1.2, 1.2, 1.0]).astype(int)
        assert np.all(found.regions[tuple(line.T)] == one.region)
    assert {one.region for one in found.placed} >= {1, 2}
    assert np.all(found.regions[found.label > 0] > 0)


def test_signals_are_the_scans_own_and_far_from_tubes_nothing_changes(painted):
    contrast, scan, found = painted
    signals = SIGNALS[contrast]
    assert found.fluid == signals["fluid"]
    assert found.white == signals["white"]
    for one, (_, share) in zip(found.placed, found.touched, strict=True):
        assert share.sum() * VOXEL == pytest.approx(one.tube.volume, rel=0.03)
    far = np.ones(scan.size, bool)
    far[np.concatenate([cells for cells, _ in found.touched])] = False
    far = ndimage.binary_erosion(far.reshape(scan.shape), iterations=4)
    np.testing.assert_array_equal(found.image[far], scan[far])


def test_in_flat_tissue_the_blurred_shares_sum_to_volume_times_strength():
    flat = np.where(np.isin(VALUES, (0, 4, 43)), scan_of(VALUES), 1000).astype(np.float32)
    found = paint(flat)
    asked = sum(one.tube.volume * strength for one, strength in zip(found.placed, found.strength, strict=True))
    change = (found.image - flat) / (found.fluid - 1000)
    assert change.sum() * VOXEL == pytest.approx(asked, rel=0.01)
    # Blurred: more voxels change than the tubes touch, and none is moved further than the strongest tube.
    touched = np.unique(np.concatenate([cells for cells, _ in found.touched]))
    assert np.count_nonzero(change > 1e-3) > 1.3 * len(touched)
    assert change.max() < found.strength.max()


def test_the_label_is_where_a_tube_fills_more_than_half(painted):
    _, scan, found = painted
    filled = np.zeros(scan.size)
    for cells, share in found.touched:
        np.add.at(filled, cells, share)
    np.testing.assert_array_equal(found.label.reshape(-1), filled > 0.5)
    assert found.voxels.sum() == found.label.sum() > 50


def test_noise_stays_and_strength_is_the_contrasts():
    clean, noisy = scan_of(VALUES), scan_of(VALUES, noise=20)
    wide = PvsDistribution(white_matter=(40, 40), basal_ganglia=(1, 1), width_mm=(2.5, 3.0), length_mm=(6, 10))
    found = paint(noisy, asked=wide)
    inside = found.label > 0
    left = found.image - noisy  # a smooth change: the noise is still there
    residual = (found.image - paint(clean, asked=wide).image)[inside]
    assert residual.std() == pytest.approx(20, rel=0.15)
    assert np.all(left[inside] < 0)
    assert np.all((found.strength >= 0.2) & (found.strength <= 0.7))


def test_a_seed_gives_the_same_scan_and_another_one_others():
    scan = scan_of(VALUES)
    np.testing.assert_array_equal(paint(scan).image, paint(scan).image)
    assert np.any(paint(scan).image != paint(scan, seed=4).image)


def test_only_the_midbrain_where_the_map_tells_it_apart():
    values = VALUES.copy()
    upper = (VALUES == 16) & (np.indices(VALUES.shape)[2] > 16)
    values[upper] = 173
    found = paint(scan_of(VALUES), brain=Parcellation.of(values, AFFINE, FREESURFER))
    np.testing.assert_array_equal(found.regions == PAINTED_REGIONS["brainstem"], upper)


@pytest.mark.parametrize(
    ("change", "contrast", "message"),
    [
        ({2: 0, 41: 0}, "T1w", "no white matter"),
        ({4: 2, 43: 41}, "T1w", "no ventricles"),
        ({}, "T2w", "do not look like fluid in a T2w scan"),
        ({}, "PD", "no such contrast"),
    ],
)
def test_what_cannot_be_painted_is_told(change, contrast, message):
    values = VALUES.copy()
    for old, new in change.items():
        values[old == VALUES] = new
    with pytest.raises(InputError, match=message) as error:
        paint(scan_of(VALUES), contrast, brain=Parcellation.of(values, AFFINE, FREESURFER))
    assert error.value.problems[0].expected
    assert error.value.problems[0].found
