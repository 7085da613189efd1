"""How many tiles a device computes at once: as many as keep it busy and fit into its free memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from mednext_jax.model.config import MedNeXtConfig

# Two patches of 128^3 keep a large GPU busy; smaller ones only wait for each other's memory.
_VOXELS = 2 * 128**3
_MOST = 32
# What the network may take of the free memory; the rest is for the volume, its evidence and fragmentation.
_SHARE = 0.5


def choose_tile_batch(config: MedNeXtConfig, patch_size: Sequence[int], device: jax.Device) -> int:
    """Tiles of `patch_size` (d, h, w) voxels at once on `device`, at least 1. A CPU is busy with one."""
    if device.platform == "cpu":
        return 1
    most = min(_MOST, _VOXELS // math.prod(patch_size))
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        free = stats["bytes_limit"] - stats.get("bytes_in_use", 0)
        most = min(most, int(_SHARE * free) // tile_bytes(config, patch_size))
    return max(1, most)


def tile_bytes(config: MedNeXtConfig, patch_size: Sequence[int]) -> int:
    """The most memory that one tile's activations take at a time, in bytes.

    It is reached in the last up block, at full resolution with twice the first stage's channels: the hidden layer
    before and after GELU, the convolution's output, its norm, the skip connection and the result.
    """
    wide = 2 * config.base_channels
    channels = 2 * config.expansion_ratios[-1] * wide + 2 * wide + 2 * config.base_channels
    return math.prod(patch_size) * channels * jnp.dtype(config.dtype).itemsize
