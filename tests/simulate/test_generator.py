"""Patches of the generator: what is painted, what is seen of it, what is labelled, and that they are reproducible."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from mednext_jax.simulate import tissues
from mednext_jax.simulate.anatomy import REGIONS
from mednext_jax.simulate.generator import IGNORED, LESION, PVS
from tests.simulate.conftest import PLAIN

pytestmark = pytest.mark.core

FAMILIES = ("T1w", "T2w", "FLAIR")
HOLDS = {"white matter": tissues.WHITE_MATTER, "basal ganglia": tissues.BASAL_GANGLIA[2]}


def deep(patch, tissue):
    """Voxels of a tissue with nothing else around, so that no partial volume is in them."""
    return ndimage.binary_erosion(patch.tissue == tissue, np.ones((3, 3, 3)), iterations=2)


def test_nothing_is_painted_outside_of_the_tissues_that_hold_perivascular_spaces(plain):
    for seed in range(4):
        patch = plain(seed)
        assert (patch.filled > 0).sum() > 200
        assert np.isin(patch.tissue[patch.filled > 0], tissues.WITH_PVS).all()
        assert patch.filled.min() == 0 and patch.filled.max() <= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_voxel_is_labelled_if_enough_of_it_was_painted(plain, family):
    """In pure white matter a tube of strength s that fills f of a voxel moves it f * s of the way to fluid."""
    patch = plain(1, family)
    white, moved = deep(patch, tissues.WHITE_MATTER) & patch.brain, 0.5 * patch.filled
    seen, faint = PLAIN.label_share, PLAIN.label_share * PLAIN.ignored_share
    unsure = np.isclose(moved, seen, atol=1e-4) | np.isclose(moved, faint, atol=1e-4)
    expected = np.where(moved > seen, PVS, np.where(moved > faint, IGNORED, 0))
    white &= ~unsure
    assert (expected[white] == PVS).sum() > 50 and (expected[white] == IGNORED).sum() > 10
    np.testing.assert_array_equal(patch.label[white], expected[white])
    assert not (patch.label[patch.filled == 0]).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_tissues_have_their_signals_and_painted_ones_lie_between_them_and_fluid(plain, family):
    patch, signals = plain(2, family), tissues.SIGNALS[tissues.FAMILIES.index(family)]
    found = 0
    for tissue in (tissues.WHITE_MATTER, tissues.VENTRICLE, *tissues.BASAL_GANGLIA):
        pure = deep(patch, tissue) & patch.brain
        bare = pure & (patch.filled == 0)
        found += bare.any()
        np.testing.assert_allclose(patch.raw[bare], signals[tissue], atol=1e-5)
        moved = signals[tissue] + 0.5 * patch.filled * (signals[tissues.VENTRICLE] - signals[tissue])
        np.testing.assert_allclose(patch.raw[pure], moved[pure], atol=1e-5)
    assert found >= 2


def test_counts_widths_lengths_and_tapers_are_those_asked_for(plain):
    patches = [plain(seed) for seed in range(24)]
    for region, (low, high) in enumerate((PLAIN.white_matter, PLAIN.basal_ganglia, PLAIN.hippocampus, PLAIN.midbrain)):
        counts = np.array([(p.tubes.there & (p.region == region)).sum() for p in patches])
        assert low <= counts.min() and counts.max() <= high, REGIONS[region]
        # Log-uniform: the median is near the geometric mean; of 24 draws it lies in this wide a span for sure.
        middle = np.sqrt((low + 1) * (high + 2))
        assert middle / 2.5 < np.median(counts) + 1 < middle * 2.5, REGIONS[region]

    def drawn(name, region):
        kept = [getattr(p.tubes, name)[p.tubes.there & (p.region == region)] for p in patches]
        return np.concatenate(kept)

    width, length, taper = (drawn(name, 0) for name in ("width", "length", "taper"))
    assert len(width) > 2000
    assert PLAIN.width[0] <= width.min() and width.max() <= PLAIN.width[1]
    assert np.median(width) == pytest.approx(PLAIN.width_median, rel=0.05)  # 2000 draws: 1 % of the median
    low, high = np.quantile(np.log(width), (0.1587, 0.8413))  # one deviation to either side, which no limit cuts
    assert (high - low) / 2 == pytest.approx(PLAIN.width_deviation, rel=0.06)
    assert np.median(length) == pytest.approx(PLAIN.length_median, rel=0.06)
    assert np.all(length >= 1.7 * width * (1 - 1e-6)) and length.max() <= PLAIN.length[1]
    assert np.median(drawn("length", 1)) < 0.75 * np.median(length)  # short in the basal ganglia
    assert PLAIN.taper[0] <= taper.min() and taper.max() <= PLAIN.taper[1]
    assert taper.mean() == pytest.approx(np.mean(PLAIN.taper), abs=0.02)
    assert np.all(drawn("strength", 0) == 0.5)


def test_tubes_start_in_their_tissue_and_follow_its_vessels(plain):
    """Of the tubes whose middles lie in the slab; places are kept a voxel off the tissue's edge."""
    at_home, cosine = {region: [] for region in HOLDS}, []
    for seed in range(24):
        patch = plain(seed)
        middle = np.rint(patch.tubes.middle).astype(int)
        inside = patch.tubes.there & np.all((middle >= 0) & (middle < patch.tissue.shape), axis=1)
        tissue = patch.tissue[tuple(np.where(inside[:, None], middle, 0).T)]
        for region in HOLDS:
            here = inside & (patch.region == REGIONS.index(region))
            at_home[region] += [np.isin(tissue[here], tissues.WITH_PVS)]
        # Radial: at the sides of the head white matter's vessels point to the side.
        away = patch.tubes.middle[:, 2] - (patch.tissue.shape[2] - 1) / 2
        lateral = inside & (patch.region == 0) & (np.abs(away) > 18)
        cosine += [np.abs(patch.tubes.direction[lateral, 2])]
    assert all(np.concatenate(rows).mean() > 0.97 for rows in at_home.values())
    cosine = np.concatenate(cosine)
    assert len(cosine) > 50 and np.median(cosine) > 0.85  # of any direction: 0.5


def test_an_extracted_brain_is_too_large_by_the_offset_and_a_head_keeps_its_skull(plain):
    patch = plain(3, extracted=True)
    brain = tissues.in_brain(patch.tissue)
    line = np.s_[8, 12]  # through the middle, where its edge is met straight on
    extra = patch.brain[line].sum() - brain[line].sum()
    assert 2 <= extra <= 6  # 2 mm at either side, whole voxels, distances of 2 mm voxels
    assert not patch.raw[~patch.brain].any() and not patch.image[~patch.brain].any()
    whole = plain(3, extracted=False)
    assert whole.brain.all() and whole.raw[~brain].any()
    np.testing.assert_array_equal(whole.filled, patch.filled)  # nothing else moved


def test_every_contrast_is_normalised_to_bright_fluid(plain):
    for family in FAMILIES:
        patch = plain(4, family)
        fluid, white = (
            patch.image[deep(patch, tissue) & (patch.filled == 0) & patch.brain]
            for tissue in (tissues.VENTRICLE, tissues.WHITE_MATTER)
        )
        assert np.median(fluid) > np.median(white) + 0.5, family
        painted = deep(patch, tissues.WHITE_MATTER) & (patch.filled > 0.9)
        assert np.median(patch.image[painted]) > np.median(white), family


def test_flip_rotation_and_the_elastic_field_move_a_head_little(plain):
    """The middle of the head stays the middle of the slab, and its tissues keep their shares."""
    shares = np.array([(plain(seed).tissue == tissues.WHITE_MATTER).mean() for seed in range(8)])
    assert shares.std() < 0.15 * shares.mean()
    assert len({plain(seed).tissue.tobytes() for seed in range(8)}) == 8


# Mean, deviation, 5th and 95th percentile of the image; labelled, lesion and ignored voxels; mm acquired. Not a hash:
# compilers of another processor or release round otherwise, and a voxel at a threshold falls on its other side.
GOLDEN: dict[str, tuple] = {
    "T1w": ([0.3832, 1.268, -1.8463, 2.4778], [456, 0, 305], [1.7472, 1.0615, 1.0615]),
    "T2w": ([-0.2106, 0.5971, -1.3153, 0.6452], [472, 0, 321], [1.7472, 1.0615, 1.0615]),
    "FLAIR": ([0.2489, 0.6842, -0.7003, 1.4507], [275, 0, 243], [1.7472, 1.0615, 1.0615]),
    "any": ([0.3389, 0.8574, -0.9439, 1.7568], [461, 0, 297], [1.7472, 1.0615, 1.0615]),
}


@pytest.mark.slow
@pytest.mark.parametrize("family", tissues.FAMILIES)
def test_a_patch_is_the_one_of_its_seed(complete, family):
    patch = complete(11, family)
    assert summary(patch)[0] == pytest.approx(GOLDEN[family][0], abs=2e-3)
    np.testing.assert_allclose(summary(patch)[1], GOLDEN[family][1], atol=2)
    np.testing.assert_allclose(patch.spacing, GOLDEN[family][2], atol=2e-4)


def summary(patch):
    image = patch.image
    figures = [image.mean(), image.std(), *np.percentile(image, (5, 95))]
    return [round(float(v), 4) for v in figures], [int((patch.label == n).sum()) for n in (PVS, LESION, IGNORED)]


@pytest.mark.slow
def test_one_seed_is_one_patch_and_another_another(complete):
    again = complete.__wrapped__(11, "T1w")
    for one, other in zip(complete(11, "T1w")[:5], again[:5], strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(complete(11, "T1w").image, complete(12, "T1w").image)


@pytest.mark.slow
def test_everything_that_the_defaults_draw_is_there_and_finite(complete):
    patches = [complete(seed, family) for seed in range(10) for family in tissues.FAMILIES]
    assert all(np.isfinite(p.image).all() for p in patches)
    assert {int(n) for p in patches for n in np.unique(p.label)} == {0, PVS, LESION, IGNORED}
    assert any(p.spacing.max() > 1.3 for p in patches) and all(p.spacing.min() >= 1 for p in patches)
    assert any(p.brain.all() for p in patches) and any(not p.brain.all() for p in patches)
    labelled = np.concatenate([p.filled[p.label == PVS] for p in patches])
    assert len(labelled) > 500 and (labelled > 0).mean() > 0.8  # the scanner spreads some into their neighbours
