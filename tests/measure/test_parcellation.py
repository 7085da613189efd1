"""A parcellated brain: volumes, capsule, centrum semiovale, sides, and places on another grid."""

from __future__ import annotations

import numpy as np
import pytest

from mednext_jax.measure.freesurfer import FREESURFER
from mednext_jax.measure.parcellation import Parcellation, Structure, axial_axis, select
from tests.measure.brain import AFFINE, brain

pytestmark = pytest.mark.core


def volume(parcellation, shape=(40, 40, 40), affine=AFFINE, **fields):
    return round(parcellation.volumes(shape, affine)[select(parcellation.structures, **fields)].sum(), 6)


def test_volumes_are_those_of_the_labels():
    values = brain()
    found = Parcellation.of(values, AFFINE, FREESURFER)
    assert volume(found, region="basal ganglia", hemisphere="left") == np.isin(values, (11, 12)).sum() * 8
    assert volume(found, tissue="ventricle") == np.isin(values, (4, 43)).sum() * 8


def test_volumes_within_a_scan_that_shows_half_of_the_brain():
    found = Parcellation.of(brain(), AFFINE, FREESURFER)
    half = AFFINE.copy()
    half[:3, :3] /= 2
    half[:3, 3] -= 0.5  # the corner of the map's box
    for name in ("left", "right"):
        assert volume(found, (80, 80, 40), half, hemisphere=name) == volume(
            Parcellation.of(brain()[:, :, :20], AFFINE, FREESURFER), (40, 40, 20), hemisphere=name
        )


def test_white_matter_between_the_nuclei_is_internal_capsule():
    values = brain()
    plain, found = (f(Parcellation.of(values, AFFINE, FREESURFER)) for f in (lambda p: p, Parcellation.refined))
    assert volume(found, region="basal ganglia") > volume(plain, region="basal ganglia")
    total = [volume(p, region="basal ganglia") + volume(p, region="white matter") for p in (plain, found)]
    assert total[0] == total[1]
    codes = found.codes_at(np.array([[-10.0, 0, -8], [-36.0, 0, -8], [-10.0, -20, -8], [-10.0, 0, 4]]))  # mm
    assert [found.structures[c].region for c in codes] == ["basal ganglia", "", "white matter", "white matter"]
    assert found.structures[codes[0]].name == "cerebral white matter"


def test_centrum_semiovale_lies_above_the_ventricles():
    found = Parcellation.of(brain(), AFFINE, FREESURFER).refined()
    parts = [found.structures[c].part for c in found.codes_at(np.array([[-20.0, 0, 12], [-20.0, 0, 14]]))]
    assert parts == ["", "centrum semiovale"]  # the ventricles end at 26 * 2 - 40 = 12 mm
    assert volume(found, part="centrum semiovale", hemisphere="left") == 16 * 32 * 9 * 8


def test_hypointensities_take_the_side_of_their_place():
    values = brain()
    values[8:10, 10, 30] = values[30, 10, 30] = 77
    found = Parcellation.of(values, AFFINE, FREESURFER).refined()
    assert volume(found, name="white matter hypointensities", hemisphere="left") == 16
    assert volume(found, name="white matter hypointensities", hemisphere="right") == 8


@pytest.mark.parametrize("turn", [np.eye(3), np.diag([-1, 1, 1]), [[0, 0, 1], [-1, 0, 0], [0, 1, 0]]])
def test_the_order_of_the_axes_does_not_matter(turn):
    """The same brain stored flipped or turned: the same volumes and places."""
    turn = np.array(turn, float)
    values = brain()
    axes = [int(np.abs(turn[:, i]).argmax()) for i in range(3)]
    stored = values.transpose(axes)
    affine = AFFINE @ np.block([[np.abs(turn), np.zeros((3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]])
    for i in range(3):
        if turn[:, i].sum() < 0:
            stored = np.flip(stored, i)
            affine[:3, 3] += affine[:3, i] * (stored.shape[i] - 1)
            affine[:3, i] *= -1
    one, two = (Parcellation.of(v, a, FREESURFER).refined() for v, a in ((values, AFFINE), (stored, affine)))
    points = np.random.default_rng(0).uniform(-38, 36, (500, 3))
    for field in ("name", "region", "hemisphere", "part"):
        names = [[getattr(p.structures[c], field) for c in p.codes_at(points)] for p in (one, two)]
        assert names[0] == names[1]


def test_outside_of_the_map_is_nothing():
    found = Parcellation.of(brain(), AFFINE, FREESURFER)
    assert found.codes_at(np.array([[-500.0, 0, 0], [0, 500, 0]])).tolist() == [0, 0]


def test_a_map_without_the_labels_that_are_needed_stays_as_it_is():
    values = np.zeros((6, 6, 6), np.int16)
    values[1:4] = 5
    plain = Parcellation.of(values, np.eye(4), {5: Structure("insula", "insula")})
    np.testing.assert_array_equal(plain.refined().codes, plain.codes)
    assert plain.ventricles() is None


def test_surface_of_the_ventricles():
    tree = Parcellation.of(brain(), AFFINE, FREESURFER).ventricles()
    distance, _ = tree.query([[0.0, 0, 12 + 10], [0, 0, 6]])
    assert distance[0] == pytest.approx(10, abs=0.01) and distance[1] < 6.1
    assert tree.n < 6 * 16 * 5


def test_which_axis_is_up():
    assert axial_axis(np.diag([1, 1, 3, 1])) == 2
    assert axial_axis(np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, 2, 0, 0], [0, 0, 0, 1]])) == 1
