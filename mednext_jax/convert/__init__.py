"""Weights from and to PyTorch, exactly, and without trusting a file.

Tests of files that have none of their own name:
`sources`: tests/convert/test_containers.py
`zip_members`: tests/convert/torch_reader/test_torch_file.py
`pickle_numpy`: tests/convert/torch_reader/test_pickle_reader.py
"""

from __future__ import annotations

from mednext_jax.command_room import call_room
from mednext_jax.convert.sources import from_torch
from mednext_jax.convert.writers import to_torch
from mednext_jax.weights.upkern import upkern

__all__ = ["from_torch", "to_torch", "upkern"]

call_room(__name__, "convert")
