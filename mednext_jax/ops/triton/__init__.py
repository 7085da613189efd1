"""NVIDIA kernels of MedNeXt's blocks: channels first, bfloat16, called through jax-triton (extras `cuda12`, `cuda13`).

Triton is imported only where it will be used.
"""

from __future__ import annotations

import functools
import importlib.util
import logging

import jax

from mednext_jax.ops.local import LocalOps

# The tile table is Hopper's: other generations have less shared memory, or have not been measured.
_CAPABILITY = "9."
_LOG = logging.getLogger(__name__)


def best_ops(*, dtype: str, norm: str = "group", grn: bool = False) -> LocalOps:
    """The fused kernels where they run (Hopper GPU, bfloat16, instance norm, no GRN), else the XLA operations.

    dtype, norm and grn are those of `MedNeXtConfig`. On a GPU that does not get the kernels, one log line says why.
    """
    if jax.default_backend() != "gpu":
        return LocalOps()
    reason = _refusal(jax.devices()[0], dtype, norm, grn)
    if reason:
        tell_once(f"no fused GPU kernels: {reason}; running XLA's operations")
        return LocalOps()
    from mednext_jax.ops.triton.channels_first import ChannelsFirstOps

    return ChannelsFirstOps()


@functools.cache
def tell_once(message: str) -> None:
    """One log line a process."""
    _LOG.warning(message)


def _refusal(device: jax.Device, dtype: str, norm: str, grn: bool) -> str | None:
    if dtype != "bfloat16":
        return f"they compute in bfloat16, the configuration asks for {dtype}"
    if norm != "group" or grn:
        return "they have instance norm alone, without global response normalisation"
    missing = [name for name in ("triton", "jax_triton") if importlib.util.find_spec(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}; pip install 'mednext-jax[cuda13]' (or cuda12)"
    capability = str(getattr(device, "compute_capability", ""))
    if not capability.startswith(_CAPABILITY):
        return f"they are tuned for compute capability {_CAPABILITY}x, {device.device_kind} has {capability or 'none'}"
    return None
