"""Voxels as one index into a flat array: XLA would write the three of a place side by side."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def flat_index(voxels: Sequence[jax.Array], shape: Sequence[int]) -> tuple[jax.Array, jax.Array]:
    """Whether voxels, int by axis, lie in a volume of this shape, and the flat index of the nearest that does."""
    inside, flat = jnp.asarray(True), jnp.asarray(0)
    for at, n in zip(voxels, shape, strict=True):
        inside &= (at >= 0) & (at < n)
        flat = flat * n + jnp.clip(at, 0, n - 1)
    return inside, flat
