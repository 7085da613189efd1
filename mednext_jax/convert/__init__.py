"""Weights from and to PyTorch, exactly, and without trusting a file."""

from __future__ import annotations

from mednext_jax.convert.sources import from_torch
from mednext_jax.convert.upkern import upkern
from mednext_jax.convert.writers import to_torch

__all__ = ["from_torch", "to_torch", "upkern"]
