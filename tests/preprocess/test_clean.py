"""The heavier steps on a head whose bias, noise and thin line are known."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from mednext_jax.errors import InputError
from mednext_jax.preprocess.clean import clean

pytestmark = pytest.mark.core

SPACING = (1.0, 1.0, 1.0)
LINE = (slice(18, 38), slice(30, 32), slice(26, 28))


@pytest.fixture(scope="module")
def head():
    """(volume (d, h, w, 1), white matter without the line) of a head with a line 2 voxels wide."""
    rng = np.random.default_rng(0)
    shape = np.array((56, 62, 54))
    radius = [
        np.linalg.norm((np.moveaxis(np.indices(shape), 0, -1) - shape / 2) / (shape * size), axis=-1)
        for size in (0.45, 0.32)
    ]
    clear = np.where(radius[0] < 1, 100.0, 0) + np.where(radius[1] < 1, 40.0, 0)
    white = radius[1] < 1
    clear[LINE] += 60
    white[LINE] = False
    down, along = (np.linspace(-0.5, 0.5, n) for n in shape[:2])
    bias = np.exp(0.4 * down[:, None, None] + 0.3 * along[:, None])
    noisy = clear * bias + rng.normal(0, 5, shape) * (clear > 0)
    return noisy.astype(np.float32)[..., None], white


def variation(volume, white):
    values = volume[..., 0][white]
    return values.std() / values.mean()


def contrast(volume, white):
    return volume[..., 0][LINE].mean() - volume[..., 0][white].mean()


def test_n4_takes_the_bias_away_and_leaves_the_noise(head):
    pytest.importorskip("SimpleITK")
    volume, white = head
    noise = 5 / 140
    assert variation(volume, white) > 1.8 * noise
    corrected = clean(volume, SPACING, ("n4",), None)
    assert noise * 0.9 < variation(corrected, white) < 1.2 * noise  # what is left of the bias is small beside it
    assert ((corrected == 0) == (volume == 0)).all() and corrected.dtype == np.float32
    inside = clean(volume, SPACING, ("n4",), white)
    assert variation(inside, white) < 1.2 * noise


def test_denoising_takes_noise_away_and_leaves_a_thin_line(head):
    pytest.importorskip("SimpleITK")
    volume, white = head
    smooth = clean(volume, SPACING, ("denoise",), None)
    steps = np.diff(volume[..., 0], axis=0)[white[1:] & white[:-1]].std()
    assert np.diff(smooth[..., 0], axis=0)[white[1:] & white[:-1]].std() < 0.5 * steps
    assert contrast(smooth, white) > 0.9 * contrast(volume, white)
    assert ((smooth == 0) == (volume == 0)).all()


def test_brain_extraction_sets_the_rest_to_zero(head):
    volume, white = head
    np.testing.assert_array_equal(clean(volume, SPACING, ("brain",), white), volume * white[..., None])
    np.testing.assert_array_equal(clean(volume, SPACING, (), None), volume)
    with pytest.raises(InputError, match="brain mask is needed"):
        clean(volume, SPACING, ("brain",), None)


def test_without_simple_itk_the_extra_is_named(head, monkeypatch):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    for step in ("n4", "denoise"):
        with pytest.raises(InputError, match=r"mednext-jax\[preprocess\]"):
            clean(head[0], SPACING, (step,), None)
