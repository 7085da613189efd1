"""A network without the outputs that only its training needed."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from mednext_jax.model.config import MedNeXtConfig


def first_outputs(config: MedNeXtConfig, params: Any, count: int) -> tuple[MedNeXtConfig, Any]:
    """The network with the first `count` outputs of every head; the others' weights are dropped. Exact for regions."""
    if count == config.num_classes:
        return config, params
    kept = {
        name: jax.tree.map(lambda leaf: leaf[..., :count], value) if name.startswith("out_") else value
        for name, value in params.items()
    }
    return dataclasses.replace(config, num_classes=count), kept
