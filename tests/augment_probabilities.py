"""The names of the augmentation's probabilities, for configurations without one."""

from __future__ import annotations

import dataclasses

from mednext_jax.data.augment import AugmentConfig
from mednext_jax.settings import PROBABILITY

# At 0 a transform is not compiled.
AUGMENT_PROBABILITIES = tuple(
    field.name for field in dataclasses.fields(AugmentConfig) if field.metadata["allowed"] is PROBABILITY
)
