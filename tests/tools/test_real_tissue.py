"""The tissue of a scan without a map, where it is known."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.measure.freesurfer import FREESURFER
from mednext_jax.measure.parcellation import Parcellation
from tests.simulate.heads import AFFINE, region_map, scan_of
from tools.real_tissue import estimate_tissue

pytestmark = pytest.mark.core

VALUES = region_map()


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


@pytest.mark.parametrize("contrast", ["T1w", "T2w"])
def test_white_matter_is_found_by_an_atlas_that_lies_beside_it(contrast):
    moved = AFFINE.copy()
    moved[:3, 3] += [2, -2, 1]
    atlas = Parcellation.of(VALUES, moved, FREESURFER)
    scan = scan_of(VALUES, contrast, noise=20)
    scan *= np.linspace(0.92, 1.08, scan.shape[1])[:, None].astype(np.float32)  # an uneven coil
    found = estimate_tissue(nib.Nifti1Image(scan, AFFINE), atlas, contrast == "T2w")
    white = np.isin(VALUES, (2, 41))
    by_atlas = np.isin(atlas.codes, [k for k, s in enumerate(atlas.structures) if s.name == "cerebral white matter"])
    by_atlas = np.roll(by_atlas, (-2, -2, 1), (0, 1, 2))
    assert dice(np.isin(found, (2, 41)), white) > max(0.93, dice(by_atlas, white) + 0.02)
    assert dice(np.isin(found, (4, 43)), np.isin(VALUES, (4, 43))) > 0.85
    # Sides are the map's: the first axis goes to the left.
    assert np.argwhere(found == 2)[:, 0].mean() > np.argwhere(found == 41)[:, 0].mean()
    assert np.all((found > 0) == (VALUES > 0))


def test_perivascular_spaces_and_lesions_stay_white_matter():
    scan = scan_of(VALUES, noise=10)
    tube = np.zeros(VALUES.shape, bool)
    tube[40, 8:24, 29:31] = True  # from the cortex into white matter
    tube &= np.isin(VALUES, (2, 41))
    lesion = np.zeros(VALUES.shape, bool)
    lesion[20:27, 12:19, 27:33] = True
    lesion &= np.isin(VALUES, (2, 41))
    scan[tube | lesion] = 300
    image = nib.Nifti1Image(scan, AFFINE)
    atlas = Parcellation.of(VALUES, AFFINE, FREESURFER)
    found = np.isin(estimate_tissue(image, atlas, False), (2, 41))
    assert tube.sum() > 15
    assert found[tube].mean() > 0.85
    assert found[lesion].mean() < 0.5
    assert np.isin(estimate_tissue(image, atlas, False, lesion), (2, 41))[lesion].all()
