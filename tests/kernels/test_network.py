"""The whole network over the fused kernels, in Triton's interpreter, against the network over XLA's operations."""

from __future__ import annotations

import jax
import numpy as np
import pytest

pytest.importorskip("triton")

from mednext_jax.kernels.channels_first import ChannelsFirstOps
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.model.mednext import MedNeXt
from mednext_jax.ops.local import LocalOps

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("interpreter")]

CONFIG = MedNeXtConfig(base_channels=2, block_counts=(1,) * 9, deep_supervision=True)


def loss_and_gradients(ops: LocalOps, config: MedNeXtConfig, params: dict, x: jax.Array) -> tuple:
    net = MedNeXt(config, ops)

    def loss(params: dict) -> jax.Array:
        heads = net.apply({"params": params}, x)
        return sum((head**2).mean() for head in heads)

    return jax.jit(jax.value_and_grad(loss))(params)


def test_the_network_over_the_kernels_is_the_network() -> None:
    x = jax.random.normal(jax.random.key(0), (1, 32, 16, 16, 1))
    params = jax.jit(MedNeXt(CONFIG).init)(jax.random.key(1), x)["params"]
    expected = loss_and_gradients(LocalOps(), CONFIG, params, x)
    found = loss_and_gradients(ChannelsFirstOps(), CONFIG, params, x)
    assert float(found[0]) == pytest.approx(float(expected[0]), rel=1e-5)
    names = jax.tree_util.tree_leaves_with_path(expected[1])
    whole = np.sqrt(sum(float((want**2).sum()) for _, want in names))
    for (path, want), got in zip(names, jax.tree.leaves(found[1]), strict=True):
        # Float32 sums in another order; the bottleneck's norm, over two voxels here, makes much of rounding. Some
        # leaves (biases in front of a norm) are rounding and nothing else.
        error = np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-3 * whole)
        assert error < 1e-3, jax.tree_util.keystr(path)
