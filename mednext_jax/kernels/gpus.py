"""The GPUs that the kernels run on."""

from __future__ import annotations

import functools
import logging

import jax

# The GPUs that the kernels run on, by compute capability, and the shared memory that a block has there (CUDA C++
# Programming Guide, table of technical specifications). The tiles were tuned on 9.0.
SHARED_BYTES = {
    "8.0": 163 << 10,  # A100
    "8.6": 99 << 10,  # RTX 30, A6000
    "8.9": 99 << 10,  # RTX 40, L40
    "9.0": 227 << 10,  # H100, H200
    "10.0": 227 << 10,  # B200, GB200
    "10.3": 227 << 10,  # B300, GB300
    "12.0": 99 << 10,  # RTX 50
    "12.1": 99 << 10,  # GB10
}
_LOG = logging.getLogger(__name__)


def capability_of(device: jax.Device) -> str:
    """A GPU's compute capability as in `SHARED_BYTES`, an AMD one's "gfx942" or the like, "" of another device."""
    return str(getattr(device, "compute_capability", ""))


def is_amd(device: jax.Device) -> bool:
    """Whether `device` is a GPU that JAX reaches through ROCm."""
    return device.platform == "gpu" and capability_of(device).startswith("gfx")


@functools.cache
def tell_once(message: str) -> None:
    """One log line per process."""
    _LOG.warning(message)
