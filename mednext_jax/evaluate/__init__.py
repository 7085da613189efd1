"""Comparison of predicted with reference masks: voxels, clusters, cases, cohorts."""

from __future__ import annotations

from mednext_jax.command_room import call_room

call_room(__name__, "evaluate")
