"""The network: its configuration, its blocks, its files."""

from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.model.mednext import MedNeXt

__all__ = ["MedNeXt", "MedNeXtConfig"]
