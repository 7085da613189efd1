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
from mednext_jax.model.directory import Model
from mednext_jax.model.recipe import Recipe

pytestmark = pytest.mark.core
GIB = 2**30
L = MedNeXtConfig.variant("L", kernel_size=5, dtype="bfloat16")


@dataclasses.dataclass
class Device:
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.platform: str
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.limit: int = 0
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.used: int = 0

 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.def memory_stats(self):
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.    return {"bytes_limit": self.limit, "bytes_in_use": self.used} if self.limit else None


def test_a_tile_of_l_takes_two_gigabytes_at_most():
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.# 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.assert tile_bytes(L, (128, 128, 128)) == (384 + 128 + 64) * 2 * 128**3


def test_free_memory_decides():
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.patch = (64, 64, 64)
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.assert choose_tile_batch(L, patch, Device("cpu", 64 * GIB)) == 1
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.assert choose_tile_batch(L, patch, Device("gpu", 80 * GIB)) == 16
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.assert choose_tile_batch(L, patch, Device("gpu", 80 * GIB, 78 * GIB)) == 3
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.assert choose_tile_batch(L, (128, 128, 128), Device("gpu", 2 * GIB)) == 1
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.assert choose_tile_batch(L, (256, 256, 256), Device("gpu", 80 * GIB)) == 1
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.assert choose_tile_batch(L, patch, Device("tpu")) == 16  # no figures: what keeps it busy


def test_memory_that_runs_out_halves_the_tiles(monkeypatch, caplog):
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.config = MedNeXtConfig(base_channels=2, block_counts=(1,) * 9)
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.params = jax.jit(module.MedNeXt(config).init)(jax.random.key(0), np.zeros((1, 16, 16, 16, 1)))["params"]
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.model = Model(config, params, Recipe(patch_size=(16, 16, 16), spacing=None), {}, None)
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.tried = []
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.real = module.segment

 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.def full(boxed, networks, window, threshold, **options):
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.    tried.append(window.tile_batch)
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.    if window.tile_batch > 2:
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.    return real(boxed, networks, window, threshold, **options)

 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.scan = nib.Nifti1Image(np.random.default_rng(0).random((16, 18, 20), np.float32), np.eye(4))
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.expected = Predictor(model, tta=False, tile_batch=1)(scan)
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.monkeypatch.setattr(module, "segment", full)
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.predictor = Predictor(model, tta=False, tile_batch=8)
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.found = predictor(scan)
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.assert tried == [8, 4, 2]
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.assert predictor.window.tile_batch == 2
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.assert "going on with 2" in caplog.text
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.np.testing.assert_allclose(found.probability.get_fdata(), expected.probability.get_fdata(), atol=1e-6)

 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.def broken(*args, **options):
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.    raise jax.errors.JaxRuntimeError("INTERNAL: something else")

 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.monkeypatch.setattr(module, "segment", broken)
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
 512 channels: 2 x 192 hidden, 64 convolved, 64 normed, 32 beside, 32 out; of 2 bytes and 128^3 voxels.    predictor(scan)
