"""Tiles spread over devices: the evidence is that of one device."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from mednext_jax.inference.sliding_window import Network, Window, _accumulators, sliding_window

pytestmark = pytest.mark.core


def network(params, x):
    """Depends on the neighbours, so that tiles differ at their borders; three classes."""
    blurred = sum(jnp.roll(x, shift, axis) for axis in (1, 2, 3) for shift in (-1, 1))
    return jnp.tanh(jnp.concatenate([x, blurred, x * blurred], -1) * params)


@pytest.mark.parametrize(("devices", "tile_batch"), [(2, 1), (3, 2), (8, 1)])
def test_evidence_equals_one_device(devices, tile_batch):
    volume = np.random.default_rng(0).normal(size=(45, 20, 37, 1)).astype(np.float32)
    networks = [Network(network, jnp.asarray(scale)) for scale in (0.5, 0.7)]
    options = {"patch_size": (16, 16, 16), "mirror_axes": (0,), "bucket": 16}
    alone = sliding_window(Window(**options), networks, volume)
    mesh = Mesh(np.array(jax.devices()[:devices]), ("tiles",))
    window = Window(**options, tile_batch=tile_batch, mesh=mesh)
    together = sliding_window(window, networks, volume)
    np.testing.assert_allclose(together, alone, rtol=1e-6, atol=1e-6)


def test_each_device_holds_its_slab_of_the_evidence():
    mesh = Mesh(np.array(jax.devices()), ("tiles",))
    window = Window((16, 16, 16), mesh=mesh)
    total, weight = _accumulators(window, network, jnp.asarray(1.0), jnp.zeros((60, 16, 16, 1)))
    assert {shard.data.shape for shard in total.addressable_shards} == {(8, 16, 16, 2)}
    assert {shard.data.shape for shard in weight.addressable_shards} == {(8, 16, 16, 1)}
