from __future__ import annotations

import numpy as np
import pytest

from mednext_jax.simulate.deform import VoxelGrid
from mednext_jax.simulate.tubes import Tube, partial_volume

pytestmark = pytest.mark.core


def make_tube(width=1.5, tip_width=1.0, length=8.0, bend=0.6, seed=0) -> Tube:
    rng = np.random.default_rng(seed)
    direction, towards, _ = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    return Tube(rng.uniform(-0.5, 0.5, 3), direction, towards, length, width, tip_width, bend)


def make_grid(spacing) -> VoxelGrid:
    spacing = np.broadcast_to(np.asarray(spacing, float), 3)
    shape = tuple(int(n) for n in np.ceil(30 / spacing))
    return VoxelGrid(shape, spacing, -spacing * (np.array(shape) - 1) / 2)


# A lattice of 0.125 mm decides by points: the error is that of counting points, below 1 % for a tube of 1.5 mm and
# 4 % for the thinnest, short one of 0.5 mm.
@pytest.mark.parametrize("spacing", [0.5, 1.0, (0.7, 1.0, 1.5)])
@pytest.mark.parametrize(
    ("width", "tip", "length", "tolerance"), [(0.5, 0.5, 4, 0.04), (1.5, 1.5, 8, 0.01), (3, 3, 12, 0.01)]
)
def test_straight_tube_fills_its_analytic_volume(spacing, width, tip, length, tolerance):
    tube = make_tube(width, tip, length, bend=1e-3, seed=3)
    grid = make_grid(spacing)
    _, share = partial_volume(tube, grid)
    assert tube.volume == pytest.approx(np.pi * width**2 / 4 * length)
    assert share.sum() * grid.spacing.prod() == pytest.approx(tube.volume, rel=tolerance)


@pytest.mark.parametrize("seed", range(4))
def test_curved_tapering_tube_fills_its_analytic_volume(seed):
    tube = make_tube(width=2.0, tip_width=1.0, length=12, bend=0.9, seed=seed)
    grid = make_grid(0.5)
    _, share = partial_volume(tube, grid)
    assert tube.volume == pytest.approx(np.pi * 12 / 12 * (4 + 2 + 1))  # a cone without its top
    assert share.sum() * grid.spacing.prod() == pytest.approx(tube.volume, rel=0.01)


def test_aligned_cylinder_shares_are_exact_by_symmetry():
    # A 1 mm wide tube along z through the corner of four 1 mm voxels: a quarter of the circle in each.
    tube = Tube(np.zeros(3), np.array([0, 0, 1.0]), np.array([1.0, 0, 0]), 10.0, 1.0, 1.0, 1e-3)
    grid = VoxelGrid((10, 10, 10), np.ones(3), np.full(3, -4.5))
    at, share = partial_volume(tube, grid)
    inner = share[(at[:, 2] > 5) & (at[:, 2] < 9)]
    assert len(inner) % 4 == 0
    np.testing.assert_allclose(inner, np.pi / 16, atol=0.02)  # 64 lattice points a quarter: a point is 0.016


def test_shares_lie_between_0_and_1_and_a_voxel_comes_once():
    at, share = partial_volume(make_tube(width=3, tip_width=2), make_grid(0.5))
    assert share.min() > 0
    assert share.max() == 1
    assert len(np.unique(at, axis=0)) == len(at)


def test_the_middle_line_is_inside_and_has_the_asked_length_and_bend():
    tube = make_tube(length=10, bend=1.0)
    line = tube.points(0.1)
    steps = np.diff(line, axis=0)
    assert tube.contains(line[1:-1]).all()
    assert np.linalg.norm(steps, axis=1).sum() == pytest.approx(10, rel=1e-3)
    turn = steps[0] @ steps[-1] / np.linalg.norm(steps[0]) / np.linalg.norm(steps[-1])
    assert np.arccos(turn) == pytest.approx(1.0, abs=0.02)


def test_the_width_falls_from_the_wide_end_to_the_tip():
    tube = make_tube(width=3.0, tip_width=1.5, length=10, bend=0.5)
    across = np.cross(tube.direction, tube.towards)  # leaves the plane of the arc
    line = tube.points(0.1)
    for share, width in ((0.02, 2.97), (0.5, 2.25), (0.98, 1.53)):
        at = line[round(share * (len(line) - 1))]
        assert tube.contains(at + 0.49 * width * across)
        assert not tube.contains(at + 0.51 * width * across)


def test_ends_are_flat():
    tube = make_tube(width=3.0, bend=1e-3)
    assert not tube.contains(tube.start - 0.01 * tube.direction)
    assert tube.contains(tube.start + 0.01 * tube.direction)


def test_a_tube_outside_the_grid_fills_nothing():
    grid = VoxelGrid((4, 4, 4), np.ones(3), np.full(3, 100.0))
    at, share = partial_volume(make_tube(), grid)
    assert at.shape == (0, 3)
    assert share.shape == (0,)
