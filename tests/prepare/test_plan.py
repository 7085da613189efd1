"""What the data set decides, and which foreground voxels are kept, against nnU-Net's rules."""

from __future__ import annotations

import numpy as np
import pytest

from mednext_jax.prepare.foreground import draw_foreground
from mednext_jax.prepare.plan import (
    brain_extracted,
    draw_intensities,
    intensity_properties,
    median_spacing,
    use_mask_for_norm,
)

pytestmark = pytest.mark.core


def test_median_spacing_of_isotropic_scans():
    assert median_spacing([(1, 1, 1), (0.8, 0.8, 0.8), (0.7, 1, 0.9)], [(180, 200, 180)] * 3) == (0.8, 1.0, 0.9)


def test_thick_slices_take_the_tenth_percentile():
    spacings = [(5, 0.5, 0.5)] * 8 + [(2, 0.5, 0.5)] * 2
    shapes = [(30, 400, 400)] * 10
    assert median_spacing(spacings, shapes) == (2, 0.5, 0.5)
    assert median_spacing(spacings, [(200, 400, 400)] * 10) == (5, 0.5, 0.5)  # many thick slices stay as they are
    finer = [(5, 0.5, 0.5)] * 8 + [(0.1, 0.5, 0.5)] * 2
    assert median_spacing(finer, shapes) == (0.5 + 1e-5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("sizes", "schemes", "expected"),
    [
        ((0.4, 0.5, 0.9), ("zscore",), True),
        ((0.4, 0.8, 0.9), ("zscore",), False),
        ((0.4,), ("ct",), False),
        ((0.4, 0.8, 0.9), ("zscore_bright_fluid",), True),  # for extracted brains, whatever is around them
    ],
)
def test_the_mask_is_used_when_cropping_removes_a_quarter(sizes, schemes, expected):
    assert use_mask_for_norm(sizes, schemes) is expected


def test_intensities_come_from_the_foreground():
    volume = np.random.default_rng(0).normal(40, 10, (20, 20, 20, 1)).astype(np.float32)
    label = np.zeros((20, 20, 20), int)
    label[:5] = 1
    (found,) = intensity_properties([draw_intensities(volume, label, 100), draw_intensities(volume, label * 0, 100)])
    inside = volume[:5]
    assert found["mean"] == pytest.approx(inside.mean(), abs=0.2)  # 100 000 draws: 10 / sqrt(1e5) = 0.03
    assert inside.min() <= found["min"] < found["percentile_00_5"] < found["median"] < found["percentile_99_5"]


def test_foreground_is_nnunets_draw():
    label = np.random.default_rng(0).integers(-1, 4, (40, 40, 40))
    drawn = draw_foreground(label, {1: (1,), 2: (2, 3), 3: (9,)})
    assert set(drawn) == {1, 2}
    random = np.random.RandomState(1234)  # one generator for all classes, in their order
    ones = np.argwhere(label == 1)
    np.testing.assert_array_equal(drawn[1], ones[random.choice(len(ones), 10_000, replace=False)])
    both = np.concatenate([np.argwhere(label == 2), np.argwhere(label == 3)])
    np.testing.assert_array_equal(drawn[2], both[random.choice(len(both), 10_000, replace=False)])
    assert drawn[1].dtype == np.int32 and len(np.unique(drawn[1], axis=0)) == 10_000


def test_small_and_large_classes():
    label = np.zeros((120, 120, 120), np.int16)
    label[:70] = 1
    label[100, 5, 7] = 2
    drawn = draw_foreground(label, {1: (1,), 2: (2,)})
    assert len(drawn[1]) == 10_080  # 1 % of 1 008 000
    np.testing.assert_array_equal(drawn[2], [[100, 5, 7]])


def test_extracted_brains_are_told_by_the_zeros_of_the_median_box():
    assert brain_extracted([0.86, 0.85, 0.1], [0.31, 0.33, 1.0])  # 55 % of the box of two of three
    assert not brain_extracted([0.1, 0.2, 0.6], [1.0, 0.9, 0.5])
    assert not brain_extracted([0.7], [0.35])  # a full box in a large frame
