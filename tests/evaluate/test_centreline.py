"""clDice against the formula over scikit-image's skeletons, and by hand."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from mednext_jax.evaluate.centreline import Centrelines

pytestmark = pytest.mark.core


def tubes(seed):
    """Random thick lines along the axes."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((24, 25, 26), bool)
    for _ in range(6):
        x, y, z = rng.integers(2, 18, 3)
        sizes = rng.permutation([7, 3, 3])
        mask[x : x + sizes[0], y : y + sizes[1], z : z + sizes[2]] = True
    return mask


def test_cl_dice_is_the_published_formula():
    skeletonize = pytest.importorskip("skimage.morphology").skeletonize
    predicted = tubes(0)
    reference = np.roll(predicted, 1, 1) & tubes(0) | tubes(1)
    ours, theirs = skeletonize(predicted), skeletonize(reference)
    precision, sensitivity = (ours & reference).sum() / ours.sum(), (theirs & predicted).sum() / theirs.sum()
    expected = 2 * precision * sensitivity / (precision + sensitivity)
    assert 0 < expected < 1
    assert Centrelines.of(predicted, reference).cl_dice() == pytest.approx(expected, abs=1e-6)


def test_lines_by_hand_whole_and_in_a_region():
    pytest.importorskip("skimage")
    predicted, reference, region = np.zeros((3, 12, 12, 12), bool)
    predicted[5, 5, 2:10] = True
    reference[5, 5, 2:6] = reference[9, 9, 9] = True
    lines = Centrelines.of(predicted, reference)
    assert lines.cl_dice() == pytest.approx(2 * (4 / 8) * (4 / 5) / (4 / 8 + 4 / 5))
    region[:, :, :4] = True
    assert lines.cl_dice(region) == 1
    region[:] = False
    region[9:] = True  # only the missed voxel
    assert lines.cl_dice(region) == 0
    assert math.isnan(lines.cl_dice(np.zeros_like(region)))


def test_empty_and_distant_masks():
    pytest.importorskip("skimage")
    nothing, something, far = np.zeros((3, 6, 6, 6), bool)
    something[1, 1, 1] = far[4, 4, 4] = True
    assert math.isnan(Centrelines.of(nothing, nothing).cl_dice())
    assert Centrelines.of(nothing, something).cl_dice() == Centrelines.of(something, far).cl_dice() == 0
    assert Centrelines.of(something, something).cl_dice() == 1


def test_without_scikit_image_there_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.morphology", None)
    mask = np.ones((3, 3, 3), bool)
    assert Centrelines.of(mask, mask) is None
