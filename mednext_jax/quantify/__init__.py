"""From masks to measures: tables of clusters and regions, for one scan and for a cohort."""

from __future__ import annotations

from mednext_jax.command_room import call_room

call_room(__name__, "quantify")
