"""Training: configuration, loss, optimiser, the jitted step, the loop around it, checkpoints and logs."""

from __future__ import annotations

from mednext_jax.command_room import call_room

call_room(__name__, "train")
