"""NVIDIA kernels of MedNeXt's blocks: channels first, bfloat16, called through jax-triton (extras `cuda12`, `cuda13`).

Used on the GPUs of `SHARED_BYTES` unless the environment says MEDNEXT_JAX_KERNELS=xla. Triton is imported only where
it is used.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os

import jax

from mednext_jax.errors import InputError
from mednext_jax.ops.local import LocalOps

# The GPUs that the kernels run on, by compute capability, and the shared memory that a block has there (CUDA C++
# Programming Guide, table of technical specifications). The tiles were tuned on 9.0.
SHARED_BYTES = {
    "8.0": 163 << 10,  # A100
    "8.6": 99 << 10,  # RTX 30, A6000
    "8.9": 99 << 10,  # RTX 40, L40
    "9.0": 227 << 10,  # H100, H200
    "12.0": 99 << 10,  # RTX 50
}
_SWITCH = "MEDNEXT_JAX_KERNELS"
_LOG = logging.getLogger(__name__)


def best_ops(*, dtype: str, norm: str = "group", grn: bool = False) -> LocalOps:
    """The fused kernels where they run (`SHARED_BYTES`, bfloat16, instance norm, no GRN), else XLA's operations.

    dtype, norm and grn are those of `MedNeXtConfig`. On a GPU, and where the user asked for the kernels, one log line
    says why they do not run.
    Raises InputError for a value of MEDNEXT_JAX_KERNELS that is neither "triton" nor "xla".
    """
    asked = os.environ.get(_SWITCH)
    if asked not in (None, "xla", "triton"):
        raise InputError(f"{_SWITCH} is not a kind of kernels.", expected="xla or triton", found=asked)
    if asked == "xla":
        return LocalOps()
    device = jax.devices()[0]
    reason = _refusal(device, dtype, norm, grn)
    if reason:
        if asked or device.platform == "gpu":
            tell_once(f"no fused GPU kernels: {reason}; running XLA's operations")
        return LocalOps()
    from mednext_jax.ops.triton.channels_first import ChannelsFirstOps

    return ChannelsFirstOps()


@functools.cache
def tell_once(message: str) -> None:
    """One log line a process."""
    _LOG.warning(message)


def capability_of(device: jax.Device) -> str:
    """A GPU's compute capability as in `SHARED_BYTES`, "" of another device."""
    return str(getattr(device, "compute_capability", ""))


def _refusal(device: jax.Device, dtype: str, norm: str, grn: bool) -> str | None:
    if device.platform != "gpu":
        return f"they run on NVIDIA GPUs, JAX's default device is a {device.platform}"
    if dtype != "bfloat16":
        return f"they compute in bfloat16, the configuration asks for {dtype}"
    if norm != "group" or grn:
        return "they have instance norm alone, without global response normalisation"
    capability = capability_of(device)
    if capability not in SHARED_BYTES:
        known = ", ".join(SHARED_BYTES)
        return f"they are made for compute capability {known}, {device.device_kind} has {capability or 'none'}"
    missing = [name for name in ("triton", "jax_triton") if importlib.util.find_spec(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}; pip install 'mednext-jax[cuda13]' (or cuda12)"
    return None
