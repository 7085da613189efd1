"""Planes of the neighbours: what one device needs of a volume that is split over a mesh axis. Inside `shard_map`."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name


def with_halo(x: Array, axis: int, name: str, before: int, after: int) -> Array:
    """`x`, this device's part along `axis`, with the neighbours' nearest planes `before` and `after` it.

    The part must have at least that many planes. At the two ends of the volume zeros come instead: devices to which
    nothing is sent receive zeros, and that is exactly the zero padding of a convolution. Planes that were received are
    named "halo": recomputation keeps them, and nothing is sent again.
    """
    size, planes = lax.axis_size(name), x.shape[axis]
    parts = [x]
    if before:
        last = lax.slice_in_dim(x, planes - before, planes, axis=axis)
        received = lax.ppermute(last, name, [(i, i + 1) for i in range(size - 1)])
        parts.insert(0, checkpoint_name(received, "halo"))
    if after:
        first = lax.slice_in_dim(x, 0, after, axis=axis)
        received = lax.ppermute(first, name, [(i + 1, i) for i in range(size - 1)])
        parts.append(checkpoint_name(received, "halo"))
    return jnp.concatenate(parts, axis)


def own_part(x: Array, axis: int, name: str, before: int = 0, after: int = 0) -> Array:
    """A device's own part, with a halo as of `with_halo`, of an `x` that every device holds whole along `axis`."""
    planes = x.shape[axis] // lax.axis_size(name)
    padding = [(0, 0)] * x.ndim
    padding[axis] = (before, after)
    x = jnp.pad(x, padding)
    return lax.dynamic_slice_in_dim(x, lax.axis_index(name) * planes, planes + before + after, axis)


def all_parts(x: Array, axis: int, name: str) -> Array:
    """The whole along `axis`, on every device."""
    return lax.all_gather(x, name, axis=axis, tiled=True)
