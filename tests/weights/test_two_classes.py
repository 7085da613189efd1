"""A background before the only output leaves the probabilities as they were."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.special import expit, softmax

from mednext_jax.errors import InputError
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.weights.names import expected_shapes, from_torch_names, to_torch_names
from mednext_jax.weights.two_classes import as_two_classes

pytestmark = pytest.mark.core

ONE = MedNeXtConfig(base_channels=2, block_counts=(1,) * 9, num_classes=1, deep_supervision=True)


def test_the_softmax_of_two_classes_is_the_sigmoid_of_the_region():
    rng = np.random.default_rng(0)
    state = {key: rng.normal(size=shape).astype(np.float32) for key, shape in expected_shapes(ONE).items()}
    params = from_torch_names(ONE, state)
    config, new = as_two_classes(ONE, params)
    assert config == dataclasses.replace(ONE, num_classes=2)
    to_torch_names(config, new)  # whole
    assert all(new[name] is params[name] for name in params if not name.startswith("out_"))
    for head in (name for name in params if name.startswith("out_")):
        (one,), (two,) = params[head].values(), new[head].values()
        x = rng.normal(size=(5, one["kernel"].shape[0]))
        z, logits = (x @ conv["kernel"] + conv["bias"] for conv in (one, two))
        np.testing.assert_allclose(softmax(logits, -1)[:, 1:], expit(z), rtol=1e-6)


def test_a_network_of_more_outputs_is_refused():
    with pytest.raises(InputError, match="more than one output"):
        as_two_classes(dataclasses.replace(ONE, num_classes=2), {})
