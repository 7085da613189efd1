"""Which operations a network runs on: its device's kernels where they can and have proved themselves, else XLA's."""

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
# The kernels by what they are written in, and the platform that they run on.
KERNELS = {"triton": "gpu", "mosaic": "tpu"}
# The TPUs whose VMEM holds what the kernels keep there, by `device_kind`: v5e, v5p, v6e, v7x.
TPUS = ("TPU v5 lite", "TPU v5", "TPU v6 lite", "TPU7x")


def best_ops(
    *,
    dtype: str,
    norm: str = "group",
    grn: bool = False,
    kinds: Sequence[BlockKind] = (),
    gradients: bool = True,
) -> LocalOps:
    """The fused kernels where they run (`SHARED_BYTES`, `TPUS`; bfloat16, instance norm, no GRN), else XLA's forms.

    dtype, norm and grn are those of `MedNeXtConfig`, kinds those of its blocks, each of which is checked on this
    machine before the kernels are taken for it (`verdicts`); gradients: whether they will be asked for. On a GPU or
    TPU, and where the user asked for the kernels, one log line says why they do not run, or which blocks run without.
    The environment's MEDNEXT_JAX_KERNELS overrides: "xla" switches the kernels off, "triton" (GPU) and "mosaic" (TPU)
    take them unchecked. Raises InputError for another value.
    """
    asked = os.environ.get(SWITCH)
    if asked not in (None, "xla", *KERNELS):
        raise InputError(f"{SWITCH} is not a kind of kernels.", expected="xla, triton or mosaic", found=asked)
    device = jax.local_devices()[0]
    if asked == "xla":
        return xla_ops(device)
    on = KERNELS[asked] if asked else device.platform
    reason = refusal(device, dtype, norm, grn, on)
    if reason:
        if on in KERNELS.values():
            tell_once(f"no fused {on.upper()} kernels: {reason}; running XLA's operations")
        return xla_ops(device)
    from mednext_jax.kernels.verdicts import refused

    wanted = [kind for kind in kinds if _takes(kind, on)]
    wrong = frozenset[BlockKind]() if asked else refused(wanted, gradients, device)
    if wanted and wrong == set(wanted):
        return xla_ops(device)
    if on == "tpu":
        from mednext_jax.kernels.mosaic.lane_ops import LaneOps

        return LaneOps(refused=wrong)
    from mednext_jax.kernels.channels_first import ChannelsFirstOps

    return ChannelsFirstOps(refused=wrong)


def xla_ops(device: jax.Device) -> LocalOps:
    """XLA's operations in the form for `device`."""
    return LocalOps("rocm") if is_amd(device) else LocalOps()


def refusal(
    device: jax.Device, dtype: str = "bfloat16", norm: str = "group", grn: bool = False, on: str | None = None
) -> str | None:
    """Why the kernels cannot run on `device`, whatever they compute; none where they can.

    on: the platform of the kernels that are asked for, "gpu" or "tpu"; none are the device's own.
    """
    on = on or ("tpu" if device.platform == "tpu" else "gpu")
    if on == "gpu" and is_amd(device):
        return f"they run on NVIDIA GPUs, {device.device_kind} is an AMD one"
    if device.platform != on:
        there = {"gpu": "NVIDIA GPUs", "tpu": "TPUs"}.get(on, on)
        return f"they run on {there}, JAX's default device is a {device.platform}"
    if dtype != "bfloat16":
        return f"they compute in bfloat16, the configuration asks for {dtype}"
    if norm != "group" or grn:
        return "they have instance norm alone, without global response normalisation"
    if on == "tpu":
        known = ", ".join(TPUS)
        return None if device.device_kind in TPUS else f"they are made for {known}, this is a {device.device_kind}"
    capability = capability_of(device)
    if capability not in SHARED_BYTES:
        known = ", ".join(SHARED_BYTES)
        return f"they are made for compute capability {known}, {device.device_kind} has {capability or 'none'}"
    missing = [name for name in ("triton", "jax_triton") if importlib.util.find_spec(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}; pip install 'mednext-jax[cuda13]' (or cuda12)"
    return None


def _takes(kind: BlockKind, on: str) -> bool:
    """Whether there are kernels for a kind of block."""
    if on == "tpu":
        from mednext_jax.kernels.mosaic.lane_ops import takes

        return takes(kind)
    from mednext_jax.kernels.tile_sizes import has_kernel_size

    return has_kernel_size(kind.kernel_size)
