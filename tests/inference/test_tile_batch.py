"""Tiles at once follow the device's free memory, and fewer are tried when it runs out."""

from __future__ import annotations

import dataclasses

import jax
import nibabel as nib
import numpy as np
import pytest

from mednext_jax.inference import predictor as module
from mednext_jax.inference.predictor import Predictor
from mednext_jax.inference.tile_batch import choose_tile_batch, tile_bytes
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.weights.directory import Model
from mednext_jax.weights.recipe import Recipe

pytestmark = pytest.mark.core
GIB = 2**30
L = MedNeXtConfig.variant("L", kernel_size=5, dtype="bfloat16")


@dataclasses.dataclass
class Device:
    platform: str
    limit: int = 0
    used: int = 0

    def memory_stats(self):
        return {"bytes_limit": self.limit, "bytes_in_use": self.used} if self.limit else None


def test_what_a_tile_of_l_takes():
    # 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out: each of 2 bytes, at 128^3 voxels.
    assert tile_bytes(L, (128, 128, 128)) == (384 + 128 + 64) * 2 * 128**3


def test_free_memory_decides():
    patch = (64, 64, 64)
    assert choose_tile_batch(L, patch, Device("cpu", 64 * GIB)) == 1
    assert choose_tile_batch(L, patch, Device("gpu", 80 * GIB)) == 16
    assert choose_tile_batch(L, patch, Device("gpu", 80 * GIB, 78 * GIB)) == 3
    assert choose_tile_batch(L, (128, 128, 128), Device("gpu", 2 * GIB)) == 1
    assert choose_tile_batch(L, (256, 256, 256), Device("gpu", 80 * GIB)) == 1
    assert choose_tile_batch(L, patch, Device("tpu")) == 16  # no figures: what keeps it busy


def test_memory_that_runs_out_halves_the_tiles(monkeypatch, caplog):
    config = MedNeXtConfig(base_channels=2, block_counts=(1,) * 9)
    params = jax.jit(module.MedNeXt(config).init)(jax.random.key(0), np.zeros((1, 16, 16, 16, 1)))["params"]
    model = Model(config, params, Recipe(patch_size=(16, 16, 16), spacing=None), {}, None)
    tried = []
    real = module.compute_evidence

    def full(scan, networks, window, tiles=None):
        tried.append(window.tile_batch)
        if window.tile_batch > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
        return real(scan, networks, window, tiles)

    scan = nib.Nifti1Image(np.random.default_rng(0).random((16, 18, 20), np.float32), np.eye(4))
    expected = Predictor(model, tta=False, tile_batch=1)(scan)
    monkeypatch.setattr(module, "compute_evidence", full)
    predictor = Predictor(model, tta=False, tile_batch=8)
    found = predictor(scan)
    assert tried == [8, 4, 2]
    assert predictor.window.tile_batch == 2
    assert "going on with 2" in caplog.text
    # Float32 sums in another order.
    np.testing.assert_allclose(found.probability.get_fdata(), expected.probability.get_fdata(), atol=1e-6)

    def broken(*args, **options):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(module, "compute_evidence", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        predictor(scan)
