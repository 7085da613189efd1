"""The command `prepare`: a whole data set verified, resampled, normalised and split."""

from __future__ import annotations

from mednext_jax.command_room import call_room

call_room(__name__, "prepare")
