"""Perivascular spaces simulated in a real template brain."""

from __future__ import annotations

from mednext_jax.command_room import call_room

call_room(__name__, "simulate")
