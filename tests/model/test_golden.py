"""The network gives the numbers of MIC-DKFZ's own code, for rebuilt weights."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from mednext_jax import MedNeXt
from mednext_jax.ops.local import LocalOps
from mednext_jax.weights.names import from_torch_names
from tests.golden import CONFIGS, golden_case

pytestmark = pytest.mark.core


# About five times the float32 error of PyTorch itself against its float64 (7.7e-6, 1.1e-5, 1.3e-5); logits have
# standard deviations of 1.7 to 2.2.
# A TPU's forms run anywhere, slowly.
@pytest.mark.parametrize(
    ("name", "platform", "tolerance"),
    [("S_k3", "cpu", 5e-5), ("B_k5_ds", "cpu", 5e-5), ("L_k5", "cpu", 1e-4), ("S_k3", "tpu", 5e-5)],
)
def test_outputs_are_those_of_the_original_code(name, platform, tolerance):
    config = CONFIGS[name]
    state, x, heads = golden_case(name)
    net = MedNeXt(config, LocalOps(platform=platform))
    outputs = jax.jit(net.apply)({"params": from_torch_names(config, state)}, np.moveaxis(x, 1, -1))
    outputs = outputs if config.deep_supervision else (outputs,)
    assert len(outputs) == len(heads)
    for ours, theirs in zip(outputs, heads, strict=True):
        np.testing.assert_allclose(np.moveaxis(ours, -1, 1), theirs, rtol=0, atol=tolerance)
