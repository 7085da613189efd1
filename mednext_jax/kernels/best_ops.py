"""Which operations a network runs on: the fused GPU kernels where they can and have proved themselves, else XLA's."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence

import jax

from mednext_jax.errors import InputError
from mednext_jax.kernels.gpus import SHARED_BYTES, capability_of, is_amd, tell_once
from mednext_jax.ops.block_kind import BlockKind
from mednext_jax.ops.local import LocalOps

SWITCH = "MEDNEXT_JAX_KERNELS"


def best_ops(
    *,
    dtype: str,
    norm: str = "group",
    grn: bool = False,
    kinds: Sequence[BlockKind] = (),
    gradients: bool = True,
) -> LocalOps:
    """The fused kernels where they run (`SHARED_BYTES`, bfloat16, instance norm, no GRN), else XLA's operations.

    dtype, norm and grn are those of `MedNeXtConfig`, kinds those of its blocks, each of which is checked on this
    machine before the kernels are taken for it (`verdicts`); gradients: whether they will be asked for. On a GPU, and
    where the user asked for the kernels, one log line says why they do not run, or which blocks run without them.
    The environment's MEDNEXT_JAX_KERNELS overrides: "xla" switches the kernels off, "triton" takes them unchecked.
    Raises InputError for another value.
    """
    asked = os.environ.get(SWITCH)
    if asked not in (None, "xla", "triton"):
        raise InputError(f"{SWITCH} is not a kind of kernels.", expected="xla or triton", found=asked)
    device = jax.local_devices()[0]
    if asked == "xla":
        return xla_ops(device)
    reason = refusal(device, dtype, norm, grn)
    if reason:
        if asked or device.platform == "gpu":
            tell_once(f"no fused GPU kernels: {reason}; running XLA's operations")
        return xla_ops(device)
    from mednext_jax.kernels.channels_first import ChannelsFirstOps
    from mednext_jax.kernels.tile_sizes import has_kernel_size
    from mednext_jax.kernels.verdicts import refused

    wanted = [kind for kind in kinds if has_kernel_size(kind.kernel_size)]
    wrong = frozenset[BlockKind]() if asked else refused(wanted, gradients, device)
    if wanted and wrong == set(wanted):
        return xla_ops(device)
    return ChannelsFirstOps(refused=wrong)


def xla_ops(device: jax.Device) -> LocalOps:
    """XLA's operations in the form for `device`."""
    return LocalOps("rocm") if is_amd(device) else LocalOps()


def refusal(device: jax.Device, dtype: str = "bfloat16", norm: str = "group", grn: bool = False) -> str | None:
    """Why the kernels cannot run on `device`, whatever they compute; none where they can."""
    if is_amd(device):
        return f"they run on NVIDIA GPUs, {device.device_kind} is an AMD one"
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
