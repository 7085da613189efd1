"""Tiles spread over devices: the evidence is that of one device."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mednext_jax.inference.sliding_window import Network, Window, _accumulators, _add_tiles
from tests.oracles import sliding_window

pytestmark = pytest.mark.core


def network(params, x):
    """Depends on the neighbours, so that tiles differ at their borders; three classes."""
    blurred = sum(jnp.roll(x, shift, axis) for axis in (1, 2, 3) for shift in (-1, 1))
    return jnp.tanh(jnp.concatenate([x, blurred, x * blurred], -1) * params)


# Slabs of 32, 22 and 8 planes: wider and narrower than the tiles.
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


def test_a_device_needs_little_more_than_its_slab_of_a_large_volume():
    """By the compiler: what adding the tiles of a 512^3 volume takes besides the volume itself."""

    def needed(mesh):
        window = Window((128, 128, 128), mirror_axes=(), mesh=mesh)
        volume = jax.ShapeDtypeStruct((512, 512, 512, 1), jnp.float32)
        total, weight = jax.eval_shape(lambda v: _accumulators(window, network, jnp.asarray(1.0), v), volume)
        table, limits = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((512, 3), (3,)))
        if mesh is not None:
            slabs = NamedSharding(mesh, PartitionSpec("tiles"))
            total, weight = (jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=slabs) for x in (total, weight))
        lowered = _add_tiles.lower(window, network, jnp.asarray(1.0), volume, table, limits, total, weight)
        memory = lowered.compile().memory_analysis()
        return memory.argument_size_in_bytes - 4 * 512**3 + memory.temp_size_in_bytes

    alone, shared = needed(None), needed(Mesh(np.array(jax.devices()), ("tiles",)))
    print(f"accumulators and temporaries of 512^3: {alone / 2**20:.0f} MiB alone, {shared / 2**20:.0f} MiB on eight")
    assert shared <= 0.25 * alone  # an eighth, and the tiles under way
