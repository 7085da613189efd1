"""Pages that show a prediction: one a scan, one for the cohort; each a single HTML file that needs no network."""

from __future__ import annotations

from mednext_jax.command_room import call_room

call_room(__name__, "report")
