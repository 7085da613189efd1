"""Which operations a network runs on: the fused GPU kernels where they can, else XLA's."""

from __future__ import annotations

import importlib.util
import os

import jax

from mednext_jax.errors import InputError
from mednext_jax.kernels.gpus import SHARED_BYTES, capability_of, tell_once
from mednext_jax.ops.local import LocalOps

_SWITCH = "MEDNEXT_JAX_KERNELS"


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
    from mednext_jax.kernels.channels_first import ChannelsFirstOps

    return ChannelsFirstOps()


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
