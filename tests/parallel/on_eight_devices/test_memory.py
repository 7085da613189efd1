"""A device's memory for a step falls with the number of devices that share a volume."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.ops.local import LocalOps
from mednext_jax.parallel.mesh import make_mesh, over_samples, replicated
from mednext_jax.parallel.network import spread
from mednext_jax.train.loss import LossConfig, segmentation_loss
from tools.programs import abstract_params

pytestmark = [pytest.mark.core, pytest.mark.slow]

SIZE = 64


def temporary_bytes(config, space):
    """Of loss and gradient for one volume on `space` devices, by the compiler."""
    mesh = make_mesh(1, space, devices=jax.devices()[:space])
    apply = spread(config, mesh, LocalOps(platform="gpu"))

    def loss(params, image, label):
        return segmentation_loss(apply(params, image), label, LossConfig())

    step = jax.jit(
        jax.value_and_grad(loss),
        in_shardings=(replicated(mesh), NamedSharding(mesh, PartitionSpec(*mesh.axis_names)), over_samples(mesh)),
        out_shardings=replicated(mesh),
    )
    volume = (1, SIZE, SIZE, SIZE)
    image, label = jax.ShapeDtypeStruct((*volume, 1), jnp.float32), jax.ShapeDtypeStruct(volume, jnp.int32)
    return step.lower(abstract_params(config), image, label).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("variant", ["S", "L"])
def test_temporary_memory_falls_with_the_devices_of_a_volume(variant):
    config = MedNeXtConfig.variant(variant, kernel_size=5, deep_supervision=True)
    alone, quarter = temporary_bytes(config, 1), temporary_bytes(config, 4)
    print(f"{variant} k5, {SIZE}^3: {alone / 2**20:.0f} MiB alone, {quarter / 2**20:.0f} MiB on four devices")
    assert quarter <= 0.35 * alone
