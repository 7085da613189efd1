"""PyTorch state-dict names and layouts of a MedNeXt, derived from its configuration alone (NumPy only).

Two naming schemes exist: "mic" (MIC-DKFZ/MedNeXt, the paper's code) and "monai" (monai.networks.nets.MedNeXt).
Our parameter paths are the MIC keys split at the dots, with "weight" called "kernel" or "scale".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from mednext_jax.errors import InputError, Problem
from mednext_jax.model.config import LEVELS, MedNeXtConfig

Flavour = Literal["mic", "monai"]
Params = dict[str, Any]

# Far beyond any trained weight; the square of a larger one overflows float32 in a few additions.
LARGEST_WEIGHT = 1e15
# The first key of every MIC state dict: a constant that PyTorch's activation checkpointing needed.
DUMMY = "dummy_tensor"


class Leaf(NamedTuple):
    """One parameter: where it lives in our tree, what PyTorch calls it, and how the two layouts relate."""

    path: tuple[str, ...]
    mic: str
    monai: str
    layout: Literal["depthwise", "out_in", "in_out", "vector", "grn"]
    shape: tuple[int, ...]  # PyTorch's

    def to_ours(self, x: np.ndarray) -> np.ndarray:
        """PyTorch layout -> ours: transposes only, no value changes."""
        if self.layout == "depthwise":
            return x[:, 0].transpose(1, 2, 3, 0)  # (c, 1, k, k, k) -> (k, k, k, c)
        if self.layout == "out_in":
            return x[:, :, 0, 0, 0].T  # (out, in, 1, 1, 1) -> (in, out)
        if self.layout == "in_out":
            return x[:, :, 0, 0, 0]  # a transposed convolution keeps (in, out) first
        return x.reshape(-1)  # vectors, and (1, r*c, 1, 1, 1) of GRN

    def to_torch(self, x: np.ndarray) -> np.ndarray:
        """Our layout -> PyTorch's, contiguous."""
        if self.layout == "depthwise":
            x = x.transpose(3, 0, 1, 2)
        elif self.layout == "out_in":
            x = x.T
        return np.ascontiguousarray(x).reshape(self.shape)

    @property
    def our_shape(self) -> tuple[int, ...]:
        return self.to_ours(np.broadcast_to(np.float32(0), self.shape)).shape


def leaves(config: MedNeXtConfig) -> list[Leaf]:
    """All parameters of the network in the order of MIC's state dict (without its dummy_tensor)."""
    channels = config.base_channels
    found = list(_conv("stem", "stem", "out_in", (channels, config.in_channels, 1, 1, 1)))
    for block in _blocks(config):
        found += _block_leaves(block)
    for i in range(LEVELS + 1 if config.deep_supervision else 1):
        monai = "out_0.conv_out" if i == 0 else f"out_blocks.{4 - i}.conv_out"
        shape = (channels * 2**i, config.num_classes, 1, 1, 1)
        found += _conv(f"out_{i}.conv_out", monai, "in_out", shape)
    return found


def expected_shapes(config: MedNeXtConfig, flavour: Flavour = "mic") -> dict[str, tuple[int, ...]]:
    """PyTorch key -> shape, in the order of the PyTorch class's own state_dict()."""
    found = leaves(config)
    if flavour == "mic":
        return {DUMMY: (1,)} | {leaf.mic: leaf.shape for leaf in found}
    return {leaf.monai: leaf.shape for leaf in sorted(found, key=_monai_order)}


def to_torch_names(config: MedNeXtConfig, params: Mapping[str, Any], flavour: Flavour = "mic") -> dict[str, np.ndarray]:
    """Parameters -> PyTorch state dict of contiguous float32 arrays in state_dict() order.

    Raises InputError if `params` do not fit `config`, or hold NaN, Inf or a number above `LARGEST_WEIGHT`.
    """
    flat = dict(_flatten(params))
    found = leaves(config)
    problems = _compare({leaf.path: leaf.our_shape for leaf in found}, flat, "/".join)
    if problems:
        raise InputError.of(problems)
    key = {leaf.path: getattr(leaf, flavour) for leaf in found}
    state = {key[leaf.path]: leaf.to_torch(np.asarray(flat[leaf.path], np.float32)) for leaf in found}
    _refuse_senseless(state, None)
    state[DUMMY] = np.ones(1, np.float32)
    return {name: state[name] for name in expected_shapes(config, flavour)}


def from_torch_names(
    config: MedNeXtConfig, state_dict: Mapping[str, np.ndarray], flavour: Flavour = "mic", *, file: object = None
) -> Params:
    """PyTorch state dict -> nested dict of contiguous float32 arrays; dummy_tensor may be there or not.

    `file`: where it was read from, for errors. Raises InputError that lists missing, unexpected and misshapen keys,
    or names tensors that hold NaN, Inf or a number above `LARGEST_WEIGHT`.
    """
    found = leaves(config)
    given = {key: value for key, value in state_dict.items() if key != DUMMY}
    problems = _compare({getattr(leaf, flavour): leaf.shape for leaf in found}, given, str)
    if problems:
        raise InputError.of(problems)
    params: Params = {}
    copied: dict[str, np.ndarray] = {}
    for leaf in found:
        *parents, name = leaf.path
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        value = leaf.to_ours(np.asarray(given[getattr(leaf, flavour)]))
        # a copy in any case: the state dict may be a window on a memory-mapped file
        with np.errstate(over="ignore"):  # of float64; the Inf is refused below
            copied[getattr(leaf, flavour)] = node[name] = np.array(value, np.float32, order="C")
    _refuse_senseless(copied, file)
    return params


def _refuse_senseless(state: Mapping[str, np.ndarray], file: object) -> None:
    """Raise InputError that names the tensors no network can compute with."""
    bad = []
    for key, x in state.items():
        low, high = float(x.min()), float(x.max())  # NaN if any is
        if np.isnan(low) or max(-low, high) > LARGEST_WEIGHT:
            found = "NaN" if np.isnan(x).any() else f"{max(low, high, key=abs):g}"
            bad.append(f"{key} ({found})")
    if bad:
        raise InputError(
            "The weights hold NaN, Inf or numbers that no trained network has.",
            file=file,
            expected=f"finite numbers of at most {LARGEST_WEIGHT:g}",
            found=f"{len(bad)} tensors: {', '.join(bad[:3])}" + (", ..." if len(bad) > 3 else ""),
            hint="take a checkpoint from before the training diverged, or copy the file again",
        )


class _Block(NamedTuple):
    name: str
    monai: str
    kind: Literal["plain", "down", "up"]
    channels_in: int
    channels_out: int
    ratio: int
    kernel: int
    grn: bool
    residual_conv: bool


def _blocks(config: MedNeXtConfig) -> Iterator[_Block]:
    ratios, counts, grn = config.expansion_ratios, config.block_counts, config.grn
    width = [config.base_channels * 2**i for i in range(LEVELS + 1)]
    encoder, decoder = config.encoder_kernel_size, config.decoder_kernel_size
    resample = config.residual_resampling

    def stage(name: str, monai: str, level: int, position: int, kernel: int) -> Iterator[_Block]:
        c, r = width[level], ratios[position]
        for b in range(counts[position]):
            yield _Block(f"{name}.{b}", f"{monai}.{b}", "plain", c, c, r, kernel, grn, False)

    for i, (ratio, down_grn) in enumerate(zip(config.down_expansion_ratios, config.down_grn, strict=True)):
        yield from stage(f"enc_block_{i}", f"enc_stages.{i}", i, i, encoder)
        channels = width[i], width[i + 1]
        yield _Block(f"down_{i}", f"down_blocks.{i}", "down", *channels, ratio, encoder, down_grn, resample)
    yield from stage("bottleneck", "bottleneck", 4, 4, decoder)
    for i, ratio in zip(reversed(range(LEVELS)), config.up_expansion_ratios, strict=True):
        channels = width[i + 1], width[i]
        yield _Block(f"up_{i}", f"up_blocks.{3 - i}", "up", *channels, ratio, decoder, grn, resample)
        yield from stage(f"dec_block_{i}", f"dec_stages.{3 - i}", i, 8 - i, decoder)


def _block_leaves(block: _Block) -> Iterator[Leaf]:
    name, monai, c, hidden = block.name, block.monai, block.channels_in, block.ratio * block.channels_in
    out, k = block.channels_out, block.kernel
    if block.grn:
        for part in ("beta", "gamma"):
            path = (*name.split("."), f"grn_{part}")
            theirs = f"{monai}.global_resp_{part}"
            yield Leaf(path, f"{name}.grn_{part}", theirs, "grn", (1, hidden, 1, 1, 1))
    yield from _conv(f"{name}.conv1", f"{monai}.conv1", "depthwise", (c, 1, k, k, k))
    for ours, part in (("scale", "weight"), ("bias", "bias")):
        path = (*name.split("."), "norm", ours)
        yield Leaf(path, f"{name}.norm.{part}", f"{monai}.norm.{part}", "vector", (c,))
    yield from _conv(f"{name}.conv2", f"{monai}.conv2", "out_in", (hidden, c, 1, 1, 1))
    yield from _conv(f"{name}.conv3", f"{monai}.conv3", "out_in", (out, hidden, 1, 1, 1))
    if block.residual_conv:
        layout: Literal["in_out", "out_in"] = "in_out" if block.kind == "up" else "out_in"
        shape = (c, out, 1, 1, 1) if block.kind == "up" else (out, c, 1, 1, 1)
        yield from _conv(f"{name}.res_conv", f"{monai}.res_conv", layout, shape)


def _conv(
    name: str, monai: str, layout: Literal["depthwise", "out_in", "in_out"], shape: tuple[int, ...]
) -> Iterator[Leaf]:
    path = tuple(name.split("."))
    size = shape[1] if layout == "in_out" else shape[0]
    yield Leaf((*path, "kernel"), f"{name}.weight", f"{monai}.weight", layout, shape)
    yield Leaf((*path, "bias"), f"{name}.bias", f"{monai}.bias", "vector", (size,))


_MONAI_GROUPS = ("stem", "enc_stages", "down_blocks", "bottleneck", "up_blocks", "dec_stages", "out_0", "out_blocks")


def _monai_order(leaf: Leaf) -> tuple[int, int]:
    group, second, *_ = leaf.monai.split(".")
    # within one module the MIC order holds, because sorting is stable
    return _MONAI_GROUPS.index(group), int(second) if second.isdigit() else 0


def _flatten(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, (*path, name))
        else:
            yield (*path, name), value


def _compare(expected: Mapping, found: Mapping, text) -> list[Problem]:
    problems = []
    missing = [key for key in expected if key not in found]
    surplus = [key for key in found if key not in expected]
    for what, keys in (("missing", missing), ("unexpected", surplus)):
        if keys:
            names = ", ".join(text(key) for key in keys[:5]) + (", …" if len(keys) > 5 else "")
            problems.append(Problem(f"{len(keys)} parameters are {what}: {names}"))
    for key, shape in expected.items():
        if key in found and tuple(np.shape(found[key])) != tuple(shape):
            what = f"The parameter {text(key)} has another shape than the architecture asks for."
            problems.append(Problem(what, expected=str(tuple(shape)), found=str(np.shape(found[key]))))
    return problems[:8]
