from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.spatial import cKDTree

from mednext_jax.errors import InputError
from mednext_jax.simulate.deform import draw_deformation
from mednext_jax.simulate.placement import PvsDistribution, Room, place_tubes, template_directions
from mednext_jax.simulate.template import BASAL_GANGLIA, WHITE_MATTER, load_template

pytestmark = pytest.mark.core


@pytest.fixture(scope="module")
def head():
    """A room of 2 mm voxels in one deformed brain, and what it takes to fill it again."""
    template = load_template()
    deformation = draw_deformation(np.random.default_rng(11), template.brain.shape)
    grid = deformation.box(template.brain, np.full(3, 2.0), 4.0)
    regions = deformation.sample(template.regions, grid, order=0)
    return template, deformation, grid, regions


@pytest.fixture(scope="module")
def crowd(head):
    """The most that the defaults ask for: 400 tubes in white matter, 60 in the basal ganglia."""
    template, deformation, grid, regions = head
    room = Room(regions, grid)
    asked = PvsDistribution(white_matter=(400, 400), basal_ganglia=(60, 60))
    return asked, room, place_tubes(np.random.default_rng(2), asked, room, template_directions(template, deformation))


def test_every_asked_tube_finds_room(crowd):
    _, _, placed = crowd
    regions = [p.region for p in placed]
    assert regions == [WHITE_MATTER] * 400 + [BASAL_GANGLIA] * 60


def test_widths_and_lengths_have_the_asked_distribution(crowd):
    asked, _, placed = crowd
    width, length, tip = np.array([[p.tube.width, p.tube.length, p.tube.tip_width] for p in placed]).T
    assert width.min() >= 0.5
    assert width.max() <= 3.0
    assert length.min() >= 1.0
    assert length.max() <= 20.0
    assert np.all(length >= asked.elongation * width - 1e-9)
    assert np.all((tip >= 0.5 * width) & (tip <= width))
    # The places are drawn after the shapes, so these are exactly the asked laws: a fixed seed, p far from 0.
    share = np.log(width / 0.5) / np.log(3.0 / 0.5)
    assert stats.kstest(share, stats.beta(*asked.width_beta).cdf).pvalue > 0.01
    shortest = np.maximum(1.0, asked.elongation * width)
    share = np.log(length / shortest) / np.log(20.0 / shortest)
    assert stats.kstest(share, stats.beta(*asked.length_beta).cdf).pvalue > 0.01


def test_tubes_keep_their_distance_from_edges_and_from_each_other(crowd):
    _, room, placed = crowd
    lines = [p.tube.points(0.5) for p in placed]
    for one, line in zip(placed, lines, strict=True):
        assert room.fits(line[None], one.region, 2.0).all()
    points = np.concatenate(lines)
    owner = np.repeat(np.arange(len(lines)), [len(line) for line in lines])
    radius = np.array([p.tube.width / 2 for p in placed])
    pairs = cKDTree(points).query_pairs(5.0, output_type="ndarray")
    pairs = pairs[owner[pairs[:, 0]] != owner[pairs[:, 1]]]
    gap = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1)
    gap -= radius[owner[pairs[:, 0]]] + radius[owner[pairs[:, 1]]]
    assert len(gap)
    assert gap.min() >= 2.0 - 1e-9


def angle_to(placed, centre_of_direction):
    """Median angle in degrees between tubes as a whole and the given directions at their middles."""
    ends = np.array([p.tube.points(0.5)[[0, -1]] for p in placed])
    chord = ends[:, 1] - ends[:, 0]
    wanted = centre_of_direction(ends.mean(1))
    cosine = np.abs((chord * wanted).sum(1)) / np.linalg.norm(chord, axis=1) / np.linalg.norm(wanted, axis=1)
    return np.degrees(np.median(np.arccos(np.clip(cosine, 0, 1))))


def test_white_matter_tubes_are_radial_and_basal_ganglia_tubes_fan_up(head, crowd):
    # Random directions would have a median of 60 degrees; the jitter of 12 degrees on two axes has 14.
    template, deformation, _, _ = head
    _, _, placed = crowd

    def from_ventricle(positions):
        voxels = np.rint(deformation.to_template(positions)).astype(int)
        return deformation.directions(template.from_ventricle[:, *voxels.T].T)

    assert angle_to([p for p in placed if p.region == WHITE_MATTER], from_ventricle) < 25
    nuclei = [p for p in placed if p.region == BASAL_GANGLIA]
    up = deformation.directions(np.array([[0.0, 0.0, 1.0]]))
    assert angle_to(nuclei, lambda positions: np.broadcast_to(up, positions.shape)) < 50


def test_counts_are_log_uniform(head):
    template, deformation, grid, regions = head
    room = Room(np.zeros_like(regions), grid)  # no place at all: every tube is left out, and nothing fails
    assert (
        place_tubes(np.random.default_rng(0), PvsDistribution(), room, template_directions(template, deformation)) == []
    )
    from mednext_jax.simulate.placement import _log_uniform_count

    rng = np.random.default_rng(0)
    counts = np.array([_log_uniform_count(rng, (20, 400)) for _ in range(2000)])
    assert counts.min() == 20
    assert 380 < counts.max() <= 400
    assert np.median(counts) == pytest.approx(np.sqrt(20 * 400), rel=0.1)
    assert _log_uniform_count(rng, (0, 0)) == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [("white_matter", (30, 20)), ("basal_ganglia", (0, 5)), ("width_mm", (0, 2)), ("taper", (1.0, 0.5))],
)
def test_a_wrong_range_is_named(field, value):
    with pytest.raises(InputError, match=field):
        PvsDistribution(**{field: value})


def test_tubes_must_be_able_to_be_longer_than_wide():
    with pytest.raises(InputError, match="longer than wide"):
        PvsDistribution(width_mm=(1, 5), length_mm=(1, 6))
