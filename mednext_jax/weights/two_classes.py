"""One region's output as the two classes of a softmax: the same probabilities, for data whose labels are classes."""

from __future__ import annotations

import dataclasses

import numpy as np

from mednext_jax.errors import InputError
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.weights.names import Params


def as_two_classes(config: MedNeXtConfig, params: Params) -> tuple[MedNeXtConfig, Params]:
    """The network with a background whose logit is 0 before its only output; other parameters are shared.

    Exact: the softmax of (0, z) is the sigmoid of z. Raises InputError for a network of more outputs.
    """
    if config.num_classes != 1:
        raise InputError("The network has more than one output.", expected="1", found=config.num_classes)
    heads = {
        name: {part: {leaf: _behind_zero(value) for leaf, value in conv.items()} for part, conv in head.items()}
        for name, head in params.items()
        if name.startswith("out_")
    }
    return dataclasses.replace(config, num_classes=2), {**params, **heads}


def _behind_zero(value: np.ndarray) -> np.ndarray:
    value = np.asarray(value)
    return np.concatenate([np.zeros_like(value), value], -1)
