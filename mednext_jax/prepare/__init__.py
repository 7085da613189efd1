"""The command `prepare`: a whole data set verified, resampled, normalised and split.

Tests of files that have none of their own name:
`foreground`: tests/prepare/test_prepare.py
"""

from __future__ import annotations

from mednext_jax.command_room import call_room

call_room(__name__, "prepare")
