"""The architecture of a MedNeXt as a frozen dataclass, and the paper's variants S, B, M and L."""

from __future__ import annotations

import dataclasses
import difflib
import operator
from typing import Any

from mednext_jax.errors import InputError, Problem
from mednext_jax.ops.block_kind import BlockKind

# Stages in order: four encoder stages, bottleneck, four decoder stages (dec_block_3 .. dec_block_0).
STAGES = 9
LEVELS = 4
# Every extent is halved LEVELS times.
EXTENT_MULTIPLE = 2**LEVELS

_VARIANTS: dict[str, dict[str, tuple[int, ...]]] = {
    "S": {"expansion_ratios": (2,) * STAGES, "block_counts": (2,) * STAGES},
    "B": {"expansion_ratios": (2, 3, 4, 4, 4, 4, 4, 3, 2), "block_counts": (2,) * STAGES},
    "M": {
        "expansion_ratios": (2, 3, 4, 4, 4, 4, 4, 3, 2),
        "block_counts": (3, 4, 4, 4, 4, 4, 4, 4, 3),
    },
    "L": {
        "expansion_ratios": (3, 4, 8, 8, 8, 8, 8, 4, 3),
        "block_counts": (3, 4, 8, 8, 8, 8, 8, 4, 3),
    },
}
_KERNEL_SIZES = (3, 5, 7)

_CHOICES = {
    "norm": ("group", "layer"),
    "grn_down": ("mic", "monai", "all"),
    "down_expansion": ("mic", "monai"),
    "dtype": ("float32", "bfloat16"),
    "remat": ("none", "block", "dw"),
}
# A configuration may come from a file: the limits keep a hostile one from asking for endless blocks.
_LIMITS = {"in_channels": 4096, "num_classes": 4096, "base_channels": 4096}
_STAGE_LIMITS = {"expansion_ratios": 64, "block_counts": 256}


@dataclasses.dataclass(frozen=True)
class MedNeXtConfig:
    """What determines a MedNeXt's parameters and arithmetic (Roy et al. 2023, MIC-DKFZ `mednextv1`).

    Raises `InputError` naming every field that is wrong.
    """

    in_channels: int = 1
    num_classes: int = 2
    # Channels of the first level; doubled at each of the four levels below.
    base_channels: int = 32
    # Hidden width / input width of each stage's blocks: encoder 0..3, bottleneck, decoder 3..0.
    expansion_ratios: tuple[int, ...] = _VARIANTS["S"]["expansion_ratios"]
    # Blocks per stage, in the same order.
    block_counts: tuple[int, ...] = _VARIANTS["S"]["block_counts"]
    # Odd; the bottleneck uses the decoder's, as in MIC-DKFZ's code.
    encoder_kernel_size: int = 3
    decoder_kernel_size: int = 3
    # Five heads, full resolution first, instead of one.
    deep_supervision: bool = False
    # "group": one group per channel, i.e. instance norm over space; "layer": over channels at each voxel.
    norm: str = "group"
    # Global response normalisation between GELU and compression.
    grn: bool = False
    # Which down blocks have it when grn is on: MIC-DKFZ's code leaves out down_0, MONAI's all of them.
    grn_down: str = "mic"
    # A down block expands by the ratio of the stage below ("mic", the paper's) or above ("monai").
    down_expansion: str = "mic"
    # x + block(x) in the nine stages; the strided 1x1x1 path around the down and up blocks.
    residual: bool = True
    residual_resampling: bool = True
    # Compute type; parameters, norm statistics and logits are always float32.
    dtype: str = "float32"
    # What the backward pass recomputes: nothing, whole blocks, or blocks but for their depthwise convolution.
    remat: str = "none"

    def __post_init__(self) -> None:
        problems: list[Problem] = []

        def wrong(field: str, expected: str) -> None:
            found = repr(getattr(self, field))
            problems.append(Problem(f"MedNeXtConfig.{field} is not valid", expected=expected, found=found[:200]))

        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            if name in _CHOICES:
                if not isinstance(value, str) or value not in _CHOICES[name]:
                    wrong(name, "one of " + ", ".join(map(repr, _CHOICES[name])))
            elif field.type == "bool":
                if not isinstance(value, bool):
                    wrong(name, "True or False")
            elif name in _STAGE_LIMITS:
                items = _integers(value)
                if items is None or len(items) != STAGES or not all(1 <= i <= _STAGE_LIMITS[name] for i in items):
                    wrong(name, f"{STAGES} integers from 1 to {_STAGE_LIMITS[name]}, one per stage")
                else:
                    object.__setattr__(self, name, items)
            elif name.endswith("kernel_size"):
                size = _integer(value)
                if size is None or size % 2 == 0 or not 3 <= size <= 15:
                    wrong(name, "an odd integer from 3 to 15 (the paper's are 3 and 5)")
                else:
                    object.__setattr__(self, name, size)
            else:
                count = _integer(value)
                if count is None or not 1 <= count <= _LIMITS[name]:
                    wrong(name, f"an integer from 1 to {_LIMITS[name]}")
                else:
                    object.__setattr__(self, name, count)
        if problems:
            raise InputError.of(problems)

    @classmethod
    def variant(cls, name: str, *, kernel_size: int = 3, **fields: Any) -> MedNeXtConfig:
        """The paper's S, B, M or L with depthwise kernels of `kernel_size` (3 or 5 published; 7); `fields` override."""
        if name not in _VARIANTS:
            raise InputError("unknown MedNeXt variant", expected=", ".join(_VARIANTS), found=repr(name))
        if kernel_size not in _KERNEL_SIZES:
            raise InputError(
                "kernel_size is not valid for a variant",
                expected="3, 5 or 7",
                found=repr(kernel_size),
                hint="set encoder_kernel_size and decoder_kernel_size for other sizes",
            )
        sizes = {"encoder_kernel_size": kernel_size, "decoder_kernel_size": kernel_size}
        return cls.from_dict({**_VARIANTS[name], **sizes, **fields})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MedNeXtConfig:
        """The configuration of `to_dict`'s result; absent fields take their default.

        Raises `InputError` naming unknown fields (and the nearest known one) and wrong values.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        problems = []
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else "known fields: " + ", ".join(known)
                problems.append(Problem(f"unknown MedNeXtConfig field {str(name)[:100]!r}", hint=hint))
        if problems:
            raise InputError.of(problems)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Every field as plain JSON values (tuples become lists)."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels of the nine stages: C, 2C, 4C, 8C, 16C, 8C, 4C, 2C, C."""
        return tuple(self.base_channels * 2 ** (LEVELS - abs(LEVELS - stage)) for stage in range(STAGES))

    @property
    def down_expansion_ratios(self) -> tuple[int, ...]:
        """Expansion of down_0 .. down_3, relative to their input channels."""
        shift = 1 if self.down_expansion == "mic" else 0
        return self.expansion_ratios[shift : shift + LEVELS]

    @property
    def up_expansion_ratios(self) -> tuple[int, ...]:
        """Expansion of up_3, up_2, up_1, up_0 (the order of the forward pass), relative to their input channels."""
        return self.expansion_ratios[LEVELS + 1 :]

    def blocks(self) -> list[tuple[BlockKind, int, int]]:
        """Kind, level of the input and number of the network's blocks, in the order of the forward pass."""
        found = []
        channels = self.stage_channels
        for stage in range(STAGES):
            level, c = LEVELS - abs(LEVELS - stage), channels[stage]
            k = self.encoder_kernel_size if stage < LEVELS else self.decoder_kernel_size
            stays = BlockKind("block", c, self.expansion_ratios[stage] * c, c, k, self.residual)
            found.append((stays, level, self.block_counts[stage]))
            if stage == STAGES - 1:
                break
            down = stage < LEVELS
            ratio = self.down_expansion_ratios[stage] if down else self.up_expansion_ratios[stage - LEVELS]
            moves = BlockKind("down" if down else "up", c, ratio * c, channels[stage + 1], k, self.residual_resampling)
            found.append((moves, level, 1))
        return found

    @property
    def down_grn(self) -> tuple[bool, ...]:
        """Whether down_0 .. down_3 have global response normalisation."""
        first = {"mic": 1, "monai": LEVELS, "all": 0}[self.grn_down]
        return tuple(self.grn and level >= first for level in range(LEVELS))

    @property
    def variant_name(self) -> str | None:
        """The published architecture that this is, e.g. "MedNeXt-L k5", or None; channels in and out do not count."""
        for name in _VARIANTS:
            for size in _KERNEL_SIZES:
                paper = MedNeXtConfig.variant(name, kernel_size=size)
                same = all(getattr(self, field) == getattr(paper, field) for field in _ARCHITECTURE)
                if same and self.down_expansion_ratios == paper.down_expansion_ratios:
                    return f"MedNeXt-{name} k{size}"
        return None


def published_kinds() -> list[BlockKind]:
    """The blocks of S, B, M and L with the published kernel sizes, 3 and 5; each once."""
    configs = [MedNeXtConfig.variant(name, kernel_size=size) for size in (3, 5) for name in _VARIANTS]
    kinds = {kind for config in configs for kind, _, _ in config.blocks()}
    return sorted(kinds, key=lambda kind: (kind.kernel_size, kind))


_ARCHITECTURE = (
    *("base_channels", "expansion_ratios", "block_counts", "encoder_kernel_size", "decoder_kernel_size"),
    *("norm", "grn", "residual", "residual_resampling"),
)


def _integer(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _integers(value: Any) -> tuple[int, ...] | None:
    if isinstance(value, str | bytes | dict) or not hasattr(value, "__len__"):
        return None
    items = [_integer(item) for item in value[: STAGES + 1]]
    return None if None in items else tuple(item for item in items if item is not None)
