"""Length, width, direction of clusters: known boxes and balls, scikit-image, drawn tubes of known course."""

from __future__ import annotations

import numpy as np
import pytest

from mednext_jax.measure.clusters import ClusterVoxels, label_clusters
from mednext_jax.measure.shape import measure_shapes
from tools.tube_errors import DIRECTIONS, draw, draw_many, errors_of

pytestmark = pytest.mark.core


def shapes_of(mask, affine=None):
    affine = np.eye(4) if affine is None else affine
    return measure_shapes(ClusterVoxels.of(*label_clusters(mask), affine))


def box(shape, start=(2, 2, 2), size=(12, 12, 12)):
    mask = np.zeros(size, bool)
    mask[tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))] = True
    return mask


@pytest.mark.parametrize("shape", [(7, 1, 1), (1, 8, 2), (2, 3, 9)])
def test_a_box_is_as_long_as_it_is(shape):
    """Of a box of any size the moments give its edges exactly."""
    (long,) = np.flatnonzero(np.array(shape) == max(shape))
    found = shapes_of(box(shape), np.diag([0.5, 0.8, 1.2, 1]))
    length = max(shape) * (0.5, 0.8, 1.2)[long]
    volume = np.prod(shape) * 0.5 * 0.8 * 1.2
    assert found.length[0] == pytest.approx(length) and found.volume[0] == pytest.approx(volume)
    assert found.width[0] == pytest.approx(2 * np.sqrt(volume / np.pi / length))
    assert found.tortuosity[0] == pytest.approx(1)
    np.testing.assert_allclose(found.direction[0], np.eye(3)[long], atol=1e-6)
    assert found.edinburgh_length[0] == pytest.approx(np.sqrt(5 / 3) * length)


def test_a_single_voxel_and_a_ball_are_no_wider_than_long():
    point = shapes_of(box((1, 1, 1)), np.diag([2.0, 2, 2, 1]))
    assert point.length[0] == pytest.approx(np.cbrt(4 * 8 / np.pi)) and point.width[0] == pytest.approx(point.length[0])
    assert point.edinburgh_length[0] == pytest.approx(2 * 2 * np.sqrt(5 / 12))
    grid = np.indices((25, 25, 25)) - 12
    ball = shapes_of((grid**2).sum(0) <= 100)  # diameter 20
    assert ball.length[0] == pytest.approx(np.cbrt(4 / np.pi * 4 / 3 * np.pi * 1000), rel=0.01)
    assert ball.width[0] == pytest.approx(ball.length[0])
    assert ball.linearity[0] == pytest.approx(0, abs=1e-6)
    assert ball.edinburgh_length[0] == pytest.approx(20, rel=0.01)


def test_ellipsoid_and_cylinder_by_their_formulas():
    x, y, z = np.indices((45, 33, 33)) - np.array([22, 16, 16])[:, None, None, None]
    ellipsoid = shapes_of((x / 20) ** 2 + (y / 10) ** 2 + (z / 6) ** 2 <= 1)
    assert ellipsoid.edinburgh_length[0] == pytest.approx(40, rel=0.01)
    assert ellipsoid.edinburgh_width[0] == pytest.approx(20, rel=0.01)
    assert ellipsoid.linearity[0] == pytest.approx(1 - (10 / 20) ** 2, abs=0.01)
    cylinder = shapes_of((np.abs(x) <= 19) & (y**2 + z**2 <= 8**2))  # 39 long, diameter near 16
    assert cylinder.length[0] == pytest.approx(39, rel=1e-3) and cylinder.width[0] == pytest.approx(16, rel=0.02)
    assert cylinder.edinburgh_length[0] == pytest.approx(1.291 * 39, rel=0.001)
    assert cylinder.edinburgh_width[0] == pytest.approx(1.118 * 16, rel=0.01)
    assert cylinder.width_max[0] == pytest.approx(cylinder.width[0], rel=0.02)


def test_moments_are_those_of_scikit_image():
    measure = pytest.importorskip("skimage.measure")
    random = np.random.default_rng(3)
    mask = np.zeros((40, 40, 40), bool)
    for start in random.integers(3, 34, (12, 3)):
        steps = np.cumsum(random.integers(-1, 2, (9, 3)), axis=0).clip(-3, 5)
        mask[tuple((start + steps).T)] = True
    spacing = (0.5, 0.7, 0.9)
    labels, count = label_clusters(mask)
    found = shapes_of(mask, np.diag([*spacing, 1]))
    for i, region in enumerate(measure.regionprops(labels, spacing=spacing)):
        assert found.volume[i] == pytest.approx(region.area)
        np.testing.assert_allclose(found.centroid[i], region.centroid)
        points = np.argwhere(labels == i + 1) * spacing
        within = np.cov(points.T, bias=True).reshape(3, 3) if len(points) > 1 else np.zeros((3, 3))
        largest = np.linalg.eigvalsh(within + np.diag(np.square(spacing)) / 12)
        assert found.edinburgh_length[i] == pytest.approx(2 * np.sqrt(5 * largest[2]), rel=1e-6)
        # scikit-image's covariance is that of the centres: without the voxel's own box
        axes = np.linalg.eigvalsh(np.trace(region.inertia_tensor) / 2 * np.eye(3) - region.inertia_tensor)
        np.testing.assert_allclose(axes, np.linalg.eigvalsh(within), atol=1e-6)


def test_widest_part():
    mask = box((1, 1, 12), size=(12, 12, 18)) | box((3, 3, 3), (1, 1, 11), (12, 12, 18))
    found = shapes_of(mask)
    assert found.width[0] < 2.2 and 2.5 < found.width_max[0] <= 2 * np.sqrt(9 / np.pi)


def test_a_hook_is_longer_than_its_extent():
    random = np.random.default_rng(0)
    tube = draw(random, 15, 1.6, 2.6, np.full(3, 0.8), DIRECTIONS[3])
    assert tube.shape.length[0] == pytest.approx(15, rel=0.07)
    assert tube.shape.tortuosity[0] == pytest.approx(1.3 / np.sin(1.3), rel=0.05)


def test_an_s_is_followed():
    t = np.linspace(0, 4 * np.pi / 2, 400)
    line = np.stack([3 * t, 6 * np.sin(t), np.zeros_like(t)], 1) + [5, 10, 6]
    course = np.linalg.norm(np.diff(line, axis=0), axis=1).sum()
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in (30, 20, 12)), indexing="ij"), -1)
    near = np.min([((grid - p) ** 2).sum(-1) for p in line[::4]], axis=0)
    found = shapes_of(near <= 1.2**2)
    assert found.length[0] == pytest.approx(course, rel=0.1)


def test_other_grids_of_the_same_space_give_the_same_mm():
    """Anisotropic, flipped, sheared: the same solid, as long and wide in mm."""
    axis = np.array([1, 2, 2]) / 3
    grids = [
        np.diag([0.5, 0.5, 0.5]),
        np.diag([-0.5, 0.4, 1.0]),
        np.array([[0.5, 0.15, 0], [0, 0.5, 0.1], [0, 0, 0.6]]),
    ]
    for matrix in grids:
        affine = np.eye(4)
        affine[:3, :3] = matrix
        affine[:3, 3] = -matrix @ [30.2, 30.3, 30.4]
        points = np.indices((61, 61, 61)).reshape(3, -1).T @ matrix.T + affine[:3, 3]
        along = points @ axis
        inside = (np.abs(along) <= 6) & (np.linalg.norm(points - along[:, None] * axis, axis=1) <= 1.5)
        mask = inside.reshape(61, 61, 61)
        found = shapes_of(mask, affine)
        assert found.length[0] == pytest.approx(12, rel=0.04) and found.width[0] == pytest.approx(3, abs=0.2)
        assert abs(found.direction[0] @ axis) > 0.999
        np.testing.assert_allclose(found.centroid[0], 0, atol=0.2)


@pytest.mark.parametrize("voxel", [0.5, 0.8, 1.0])
@pytest.mark.parametrize("width_in_voxels", [1.5, 2.5])
def test_drawn_tubes_of_known_course(voxel, width_in_voxels):
    found = errors_of(draw_many(voxel, width_in_voxels * voxel, repeats=4), voxel)
    assert found.whole > 0.9
    assert np.median(np.abs(found.length)) < 0.1
    assert np.median(np.abs(found.width)) < 0.5
    assert found.between_directions < 0.05


def test_nothing_and_a_whole_scan():
    empty = shapes_of(np.zeros((4, 4, 4), bool))
    assert empty.length.shape == (0,) and empty.direction.shape == (0, 3)
    everything = shapes_of(np.ones((30, 31, 32), bool))
    assert everything.volume[0] == 30 * 31 * 32 and np.isfinite(everything.length[0])
