"""Which MedNeXt a PyTorch state dict is of, read from the names and shapes of its tensors alone."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Literal

import numpy as np

from mednext_jax.errors import InputError
from mednext_jax.model.config import LEVELS, STAGES, MedNeXtConfig
from mednext_jax.weights.names import DUMMY, Flavour, expected_shapes

_STAGE_NAMES = (
    *(f"enc_block_{i}" for i in range(LEVELS)),
    "bottleneck",
    *(f"dec_block_{i}" for i in reversed(range(LEVELS))),
)
_MONAI_RENAMES: tuple[tuple[str, str], ...] = (
    *((f"enc_stages.{i}.", f"enc_block_{i}.") for i in range(LEVELS)),
    *((f"dec_stages.{i}.", f"dec_block_{LEVELS - 1 - i}.") for i in range(LEVELS)),
    *((f"down_blocks.{i}.", f"down_{i}.") for i in range(LEVELS)),
    *((f"up_blocks.{i}.", f"up_{LEVELS - 1 - i}.") for i in range(LEVELS)),
    *((f"out_blocks.{i}.", f"out_{LEVELS - i}.") for i in range(LEVELS)),
)
# Telltale names of the networks that people most often try, most specific first.
_OTHER_NETWORKS = (
    (r"conv_blocks_context\.", "a U-Net of nnU-Net v1 (Generic_UNet)"),
    (r"encoder\.stages\.\d+(\.0)?\.blocks\.", "a residual-encoder U-Net of nnU-Net v2 (ResidualEncoderUNet)"),
    (r"encoder\.stages\.\d+\.\d+\.convs\.", "a plain U-Net of nnU-Net v2 (PlainConvUNet)"),
    (r"swinViT\.", "a SwinUNETR"),
    (r"(^|\.)vit\.", "a UNETR"),
    (r"down_layers\.", "a SegResNet"),
    (r"model\.\d+\.conv\.unit\d|submodule\.", "a MONAI UNet"),
    (r"stages\.\d+\.\d+\.(dwconv|gamma|grn)", "a ConvNeXt classifier"),
    (r"layer[1-4]\.\d+\.conv1\.weight", "a ResNet"),
)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A recognised network: its configuration, naming, a name for people, and what is worth saying."""

    config: MedNeXtConfig
    flavour: Flavour
    name: str
    unused: tuple[str, ...] = ()  # keys of the state dict that the network does not use
    notes: tuple[str, ...] = ()


def recognise(
    state: Mapping[str, np.ndarray],
    *,
    file: object = None,
    norm: Literal["group", "layer"] = "group",
    residual: bool = True,
) -> Architecture:
    """The architecture of a state dict whose prefixes are stripped.

    `norm`, `residual`: leave no trace in the shapes; MIC-DKFZ's and MONAI's published variants have the defaults.
    Raises InputError if it is a 2D network, another network, or its shapes fit no one MedNeXt.
    """
    flavour: Flavour = "monai" if any(key.startswith("enc_stages.") for key in state) else "mic"
    shapes = {_mic_key(key): x.shape for key, x in state.items() if key != DUMMY}
    _refuse_others(shapes, file)
    kept, notes, unused = _heads(shapes)
    try:
        config = _read_config(kept, norm, residual)
    except (KeyError, ValueError, ZeroDivisionError, IndexError, InputError) as error:
        detail = f"no {error}" if isinstance(error, KeyError) else str(error).replace("\n ", ";")
        raise _mixed(file, "a MedNeXt's tensors", detail) from None
    for key, shape in expected_shapes(config).items():
        if key != DUMMY and kept.get(key) != shape:
            raise _mixed(file, f"{key}: {shape}", f"{key}: {kept.get(key, 'missing')}")
    surplus = sorted(set(kept) - set(expected_shapes(config)))
    if surplus:
        raise _mixed(file, "no other tensors", ", ".join(surplus[:5]))
    back = {_mic_key(key): key for key in state}
    return Architecture(config, flavour, describe(config, flavour), tuple(back[key] for key in unused), tuple(notes))


def describe(config: MedNeXtConfig, flavour: Flavour | None = None) -> str:
    """E.g. "MedNeXt-L k5, MIC-DKFZ"; a network of no published size is described by its numbers."""
    whose = {"mic": ", MIC-DKFZ", "monai": ", MONAI", None: ""}[flavour]
    if config.variant_name:
        return f"{config.variant_name}{whose}"
    paper = dataclasses.replace(config, down_expansion="mic")
    if paper.variant_name:
        return f"{paper.variant_name} with MONAI's down ratios{whose}"
    kernels = sorted({config.encoder_kernel_size, config.decoder_kernel_size})
    parts = [f"{config.base_channels} channels", f"k{'/'.join(map(str, kernels))}"]
    parts += [f"expansion {' '.join(map(str, config.expansion_ratios))}"]
    parts += [f"blocks {' '.join(map(str, config.block_counts))}"]
    parts += ["GRN"] if config.grn else []
    parts += ["layer norm"] if config.norm == "layer" else []
    return f"MedNeXt ({', '.join(parts)}){whose}"


def _mic_key(key: str) -> str:
    key = key.replace(".global_resp_", ".grn_")
    for monai, mic in _MONAI_RENAMES:
        if key.startswith(monai):
            return mic + key[len(monai) :]
    return key


def _refuse_others(shapes: Mapping[str, tuple[int, ...]], file: object) -> None:
    if "stem.weight" not in shapes or "enc_block_0.0.conv1.weight" not in shapes:
        what = next((name for pattern, name in _OTHER_NETWORKS if any(re.search(pattern, k) for k in shapes)), None)
        raise InputError(
            "These are not the weights of a MedNeXt.",
            file=file,
            expected="stem.weight with enc_block_0.* (MIC-DKFZ) or enc_stages.0.* (MONAI)",
            found=what or f"{len(shapes)} tensors: {', '.join(ascii(k)[1:-1][:60] for k in list(shapes)[:4])}, ...",
        )
    if len(shapes["stem.weight"]) == 4:
        raise InputError(
            "This is a 2D MedNeXt; only 3D networks are converted.",
            file=file,
            expected="a stem.weight with three spatial axes",
            found=f"stem.weight: {shapes['stem.weight']}",
        )
    if len(shapes.get("enc_block_0.0.norm.weight", ())) == 4:
        raise InputError(
            "This MedNeXt has MONAI's layer norm over (channels, k, k, k), which no image but a k^3 one can pass.",
            file=file,
        )


def _heads(shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, tuple[int, ...]], list[str], list[str]]:
    """Auxiliary heads count only if all four are there: (shapes without stray ones, notes, dropped keys)."""
    heads = {i for i in range(1, LEVELS + 1) if f"out_{i}.conv_out.weight" in shapes}
    if len(heads) in (0, LEVELS):
        note = "no deep-supervision heads (out_1 .. out_4)" if not heads else "with four deep-supervision heads"
        return dict(shapes), [note], []
    dropped = [key for key in shapes if re.match(r"out_[1-9]\.", key)]
    note = f"only the deep-supervision heads {sorted(heads)} are there, and none is used"
    return {key: shape for key, shape in shapes.items() if key not in dropped}, [note], dropped


def _read_config(
    shapes: Mapping[str, tuple[int, ...]], norm: Literal["group", "layer"], residual: bool
) -> MedNeXtConfig:
    def ratio(block: str) -> int:
        hidden, channels, *_ = shapes[f"{block}.conv2.weight"]
        if hidden % channels:
            raise ValueError(f"{block} expands {channels} channels to {hidden}")
        return hidden // channels

    def count(stage: str) -> int:
        indices = [int(m[1]) for key in shapes if (m := re.match(rf"{stage}\.(\d{{1,4}})\.", key))]
        return max(indices) + 1

    ratios = tuple(ratio(f"{stage}.0") for stage in _STAGE_NAMES)
    downs = tuple(ratio(f"down_{i}") for i in range(LEVELS))
    if downs not in (ratios[1 : LEVELS + 1], ratios[:LEVELS]):
        raise ValueError(f"expansion ratios {downs} of the down blocks beside {ratios} of the {STAGES} stages")
    grn = "enc_block_0.0.grn_gamma" in shapes
    down_grn = [f"down_{i}.grn_gamma" in shapes for i in range(LEVELS)]
    channels, in_channels, *_ = shapes["stem.weight"]
    return MedNeXtConfig(
        in_channels=in_channels,
        num_classes=shapes["out_0.conv_out.weight"][1],
        base_channels=channels,
        expansion_ratios=ratios,
        block_counts=tuple(count(stage) for stage in _STAGE_NAMES),
        encoder_kernel_size=shapes["enc_block_0.0.conv1.weight"][-1],
        decoder_kernel_size=shapes["bottleneck.0.conv1.weight"][-1],
        deep_supervision="out_4.conv_out.weight" in shapes,
        norm=norm,
        grn=grn,
        grn_down="mic" if not grn else "all" if down_grn[0] else "mic" if down_grn[1] else "monai",
        down_expansion="mic" if downs == ratios[1 : LEVELS + 1] else "monai",
        residual=residual,
        residual_resampling="down_0.res_conv.weight" in shapes,
    )


def _mixed(file: object, expected: str, found: str) -> InputError:
    return InputError(
        "The tensors do not make up one MedNeXt (are they of mixed variants?).",
        file=file,
        expected=expected,
        found=found[:300],
    )
