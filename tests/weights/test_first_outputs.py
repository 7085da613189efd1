from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.model.mednext import MedNeXt
from mednext_jax.weights.first_outputs import first_outputs

pytestmark = pytest.mark.core


def test_the_first_outputs_are_those_of_the_whole_network():
    config = MedNeXtConfig(
        base_channels=2, expansion_ratios=(1,) * 9, block_counts=(1,) * 9, num_classes=2, deep_supervision=True
    )
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 16, 16, 16, 1)), jnp.float32)
    params = MedNeXt(config).init(jax.random.key(0), x)["params"]
    one, kept = first_outputs(config, params, 1)
    assert one.num_classes == 1 and first_outputs(config, params, 2) == (config, params)
    shapes = jax.eval_shape(MedNeXt(one).init, jax.random.key(0), x)["params"]
    assert jax.tree.map(jnp.shape, kept) == jax.tree.map(jnp.shape, shapes)
    whole, first = MedNeXt(config).apply({"params": params}, x), MedNeXt(one).apply({"params": kept}, x)
    for two, head in zip(whole, first, strict=True):
        assert head.shape[-1] == 1
        np.testing.assert_allclose(head[..., 0], two[..., 0], atol=1e-6)
