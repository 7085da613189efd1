"""Write PyTorch state dicts under MIC-DKFZ's or MONAI's names; torch is imported only here and only to write."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mednext_jax.errors import InputError, WorkError
from mednext_jax.io.atomic import atomic_file, refuse_existing
from mednext_jax.model.config import LEVELS, MedNeXtConfig
from mednext_jax.weights.names import Flavour, to_torch_names


def to_torch(
    path: str | os.PathLike, config: MedNeXtConfig, params: Mapping[str, Any], flavour: Flavour = "mic"
) -> None:
    """Write a state dict that `torch_model.load_state_dict(torch.load(path))` takes, strictly.

    `flavour`: "mic" (MIC-DKFZ/MedNeXt, dummy_tensor first) or "monai" (monai.networks.nets.MedNeXt).
    Raises InputError if that class cannot express the network, `path` exists, or torch is not installed.
    """
    state = torch_state(config, params, flavour)
    save = torch_save()
    refuse_existing(path)
    with atomic_file(path, replace=False) as temporary:
        save(state, temporary)


def torch_state(config: MedNeXtConfig, params: Mapping[str, Any], flavour: Flavour) -> OrderedDict[str, np.ndarray]:
    """The state dict of a class that can express the network. Raises InputError with the reason if it cannot."""
    reason = _why_not_mic(config) if flavour == "mic" else _why_not_monai(config)
    if reason is not None:
        other = "mic" if flavour == "monai" else "monai"
        raise InputError(
            f"{'MIC-DKFZ' if flavour == 'mic' else 'MONAI'}'s MedNeXt class cannot hold this network: {reason}",
            hint=f"write it with --to {other}, or keep it as a model directory",
        )
    return OrderedDict(to_torch_names(config, params, flavour))


def torch_save() -> Any:
    """`save(object, path)` that turns NumPy arrays of state dicts into tensors. Raises InputError without torch."""
    try:
        import torch
    except ImportError:
        raise InputError(
            "Writing PyTorch files needs torch, which is not installed.",
            hint="pip install 'mednext-jax[torch]' (a model directory's model.safetensors needs none of this)",
        ) from None

    def tensors(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return torch.from_numpy(value if value.flags.writeable else value.copy())
        if isinstance(value, dict):
            return type(value)((key, tensors(item)) for key, item in value.items())
        return value

    def save(value: Any, path: str | os.PathLike) -> None:
        try:
            torch.save(tensors(value), Path(path))
        except RuntimeError as error:  # how torch reports what the system says of a full disk
            reason = str(error).splitlines()[0]
            raise WorkError(f"The PyTorch file could not be written (is the disk full?): {reason}") from None

    return save


def _why_not_mic(config: MedNeXtConfig) -> str | None:
    above, below = config.expansion_ratios[:LEVELS], config.expansion_ratios[1 : LEVELS + 1]
    if config.down_expansion_ratios != below:
        return (
            f"its down blocks expand by {_text(config.down_expansion_ratios)}, the ratios of the stages above them, as "
            f"in MONAI; MIC-DKFZ's take {_text(below)}, those of the stages below. They are different architectures."
            if config.down_expansion_ratios == above
            else "its down blocks' ratios."
        )
    if config.grn and config.grn_down != "mic":
        return "its down blocks have global response normalisation elsewhere (MIC-DKFZ's: all but the first)."
    return None


def _why_not_monai(config: MedNeXtConfig) -> str | None:
    above = config.expansion_ratios[:LEVELS]
    if config.down_expansion_ratios != above:
        return (
            f"its down blocks expand by {_text(config.down_expansion_ratios)}, the ratios of the stages below them, as "
            f"in the paper's code; MONAI's take {_text(above)}, those of the stages above. They are different "
            "architectures (only variant S is the same in both)."
        )
    if config.grn and config.grn_down != "monai":
        return "its down blocks have global response normalisation (MONAI's have none)."
    if config.norm != "group":
        return "it has a layer norm, which MONAI's class has in another form."
    if config.encoder_kernel_size != config.decoder_kernel_size:
        return "its encoder and decoder have kernels of different sizes."
    if config.residual != config.residual_resampling:
        return "only some of its blocks have residual connections."
    return None


def _text(ratios: tuple[int, ...]) -> str:
    return " ".join(map(str, ratios))
