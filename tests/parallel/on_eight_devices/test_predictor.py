"""A scan that eight devices share is segmented as by one."""

from __future__ import annotations

import jax
import nibabel as nib
import numpy as np
import pytest

from mednext_jax.inference.predictor import Predictor
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.model.mednext import MedNeXt
from mednext_jax.weights.directory import Model
from mednext_jax.weights.recipe import Recipe

pytestmark = pytest.mark.core


def test_probabilities_equal_one_device():
    """With resampling, mirrors and a network whose norms see the whole tile."""
    config = MedNeXtConfig(base_channels=4, block_counts=(1,) * 9)
    params = MedNeXt(config).init(jax.random.key(0), np.zeros((1, 16, 16, 16, 1), np.float32))["params"]
    recipe = Recipe(
        channel_names=("T2w",),
        labels={"background": 0, "PVS": 1},
        patch_size=(32, 32, 32),
        spacing=(1.0, 1.0, 1.0),
        orientation="RAS",
        normalisation=("zscore",),
        mirror_axes=(2,),
    )
    model = Model(config, jax.device_get(params), recipe, {}, None)
    voxels = np.random.default_rng(0).normal(10, 2, size=(40, 52, 47)).astype(np.float32)
    scan = nib.Nifti1Image(voxels, np.diag([1.25, 1.0, 1.0, 1]))
    alone, together = (Predictor(model, devices=jax.devices()[:n])(scan) for n in (1, 8))
    found, expected = together.probability.get_fdata(), alone.probability.get_fdata()
    assert expected.min() > 0.01 and expected.std() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert (together.mask.get_fdata() == alone.mask.get_fdata()).all()
