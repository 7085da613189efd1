from __future__ import annotations

import numpy as np
import pytest

from mednext_jax.simulate.confounders import Blob, draw_hyperintensities, draw_lacunes, draw_sulci, paint_lesion
from mednext_jax.simulate.deform import VoxelGrid, draw_deformation
from mednext_jax.simulate.placement import Room
from mednext_jax.simulate.template import load_template

pytestmark = pytest.mark.core


@pytest.fixture(scope="module")
def head():
    template = load_template()
    deformation = draw_deformation(np.random.default_rng(11), template.brain.shape)
    grid = deformation.box(template.brain, np.full(3, 2.0), 4.0)
    return template, deformation, Room(deformation.sample(template.regions, grid, order=0), grid)


def ball(radius, strength, softness=0.1, x=0.0) -> Blob:
    return Blob(np.array([x, 0, 0]), np.eye(3) / radius, radius, softness, strength)


def test_a_lesion_moves_the_signal_towards_fluid_inside_it():
    grid = VoxelGrid((20, 20, 20), np.full(3, 0.5), np.full(3, -4.75))
    signal = np.full(grid.shape, 400, np.float32)
    paint_lesion(signal, [ball(2.0, 0.5)], grid, fluid=1000)
    share = (signal - 400) / 600
    position = np.indices(grid.shape) * 0.5 - 4.75
    radius = np.linalg.norm(position, axis=0)
    np.testing.assert_allclose(share[radius < 1.9], 0.5, atol=1e-5)
    assert not share[radius > 2.15].any()
    assert share.sum() * 0.125 == pytest.approx(0.5 * 4 / 3 * np.pi * 8, rel=0.05)  # voxels of 0.5 mm in a 2 mm ball


def test_overlapping_blobs_of_a_lesion_do_not_add_up():
    grid = VoxelGrid((24, 10, 10), np.full(3, 1.0), np.array([-12.0, -5, -5]))
    signal = np.zeros(grid.shape, np.float32)
    paint_lesion(signal, [ball(3, 0.4, x=-1), ball(3, 0.3, x=1)], grid, fluid=1)
    assert signal.max() == pytest.approx(0.4)


def test_a_lesion_at_the_edge_of_the_grid_is_cut():
    grid = VoxelGrid((4, 4, 4), np.ones(3), np.full(3, 1.0))
    signal = np.zeros(grid.shape, np.float32)
    paint_lesion(signal, [ball(2, 1.0)], grid, fluid=1)
    assert signal[0, 0, 0] == 1
    paint_lesion(signal, [ball(2, 1.0, x=-50)], grid, fluid=1)  # wholly outside


def test_hyperintensities_gather_near_the_ventricles(head):
    template, deformation, room = head
    lesions = [
        lesion
        for seed in range(20)
        for lesion in draw_hyperintensities(np.random.default_rng(seed), room, template, deformation, (0.2, 0.45))
    ]
    assert 3 * 20 <= len(lesions) <= 25 * 20
    assert all(0.2 <= blob.strength <= 0.45 for lesion in lesions for blob in lesion)

    def distance(positions):
        voxels = np.rint(deformation.to_template(positions)).astype(int)
        return np.linalg.norm(template.from_ventricle[:, *voxels.T], axis=0)

    near = distance(np.array([np.mean([blob.centre for blob in lesion], axis=0) for lesion in lesions]))
    anywhere = distance(room.positions(room.places(1, 2.0)))
    assert np.median(near) < 0.6 * np.median(anywhere)


def test_lacunes_take_their_room(head):
    _, _, room = head
    room = Room(room.regions, room.grid)
    lacunes = [b for seed in range(10) for b in draw_lacunes(np.random.default_rng(seed), room, (0.7, 1.0))]
    assert lacunes
    assert all(1.5 <= blob.reach <= 5.0 for blob in lacunes)  # 3 to 10 mm across
    for blob in lacunes:
        assert not room.free(blob.centre[None] + 0.3, 0.5, 0.0)
        index = tuple(room.grid.voxels(blob.centre))
        assert room.regions[index] in (1, 2)


def test_sulci_are_thin_and_in_the_cortex(head):
    template, _, _ = head
    sulci = draw_sulci(np.random.default_rng(0), template)
    assert sulci.min() == 0
    assert 0.9 < sulci.max() <= 1
    assert not sulci[template.cortex < 0.3].any()
    cortex = template.cortex > 0.9
    assert 0.02 < (sulci[cortex] > 0.5).mean() < 0.3
    assert not np.array_equal(sulci, draw_sulci(np.random.default_rng(1), template))
