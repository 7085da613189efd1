"""Find the MedNeXt state dict in a file, whatever wrote it: nnU-Net v1 or v2, Lightning, MONAI, torch, safetensors.

What a file is shows in its content; names and endings do not count.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mednext_jax.convert.torch_reader.pickle_numpy import Foreign
from mednext_jax.convert.torch_reader.torch_file import LEGACY_MAGIC, ZIP_MAGIC, TorchFile
from mednext_jax.errors import InputError
from mednext_jax.io.absent import refuse_absent
from mednext_jax.io.json_file import MIB
from mednext_jax.weights.safetensors_file import read_tensors

_STEM = "stem.weight"
_WRAPPERS = {"module", "_orig_mod", "model", "network", "net"}
# Where a state dict is kept in a larger file, in the order of preference.
_HOMES = ("network_weights", "state_dict", "model")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A state dict and the file around it. Arrays may be windows on the file: copy before keeping."""

    path: Path
    kind: str  # what wrote it, for people
    state: Mapping[str, np.ndarray]  # prefixes stripped
    rest: Mapping[str, Any]  # the file's other entries (init_args, plans, ...)
    notes: tuple[str, ...]


def read_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """Read a checkpoint by its content: a torch zip file or safetensors.

    Raises InputError for what is neither, holds no state dict, or holds tensors that are not real numbers.
    """
    path = Path(path)
    refuse_absent(path, "file", "a PyTorch checkpoint or a safetensors file")
    with path.open("rb") as file:
        head = file.read(16)
    rest: Mapping[str, Any]
    if head.startswith((ZIP_MAGIC, LEGACY_MAGIC)):
        opened = TorchFile(path)
        kind, found, rest, placed = _locate(opened.contents, path)
        state, notes = _strip(found)
        notes = [*placed, *notes]
        opened.verify(state.values())
    elif len(head) > 8 and head[8:9] == b"{":
        kind, found, rest = "safetensors", read_tensors(path), {}
        state, notes = _strip(found)
    else:
        raise InputError(
            "The file is neither a PyTorch checkpoint nor safetensors.",
            file=path,
            expected="a file that torch.save wrote (zip), or .safetensors",
            found=_describe_head(head),
        )
    return Checkpoint(path, kind, _as_floats(state, path), rest, tuple(notes))


def _describe_head(head: bytes) -> str:
    if not head:
        return "an empty file"
    if head[:1] == b"\x80":
        return "a pickle that torch.save did not write (plans are read beside their .model file)"
    if head[:2] == b"\x1f\x8b":
        return "a gzip archive: unpack it first"
    return f"a file that begins with {head[:8]!r}"


def _locate(contents: Any, path: Path) -> tuple[str, Mapping[str, np.ndarray], Mapping[str, Any], list[str]]:
    """(what wrote the file, its state dict, its other entries, notes)"""
    if isinstance(contents, dict):
        for home in _HOMES:
            inner = contents.get(home)
            if isinstance(inner, dict) and _is_state(inner):
                rest = {key: value for key, value in contents.items() if key != home}
                return _kind(home, rest), _tensors(inner, path), rest, []
        if (networks := _networks(contents)) and not _has_stem(contents):
            home, *others = networks
            notes = [f"took the network under {home!r}; {_others(others)}"] if others else []
            rest = {key: value for key, value in contents.items() if key != home.partition(".")[0]}
            return _kind(home, rest), _tensors(networks[home], path), rest, notes
        if _is_state(contents):
            return "PyTorch state dict", _tensors(contents, path), {}, []
    keys = ", ".join(map(_entry, list(contents.items())[:8])) if isinstance(contents, dict) else "no dict"
    raise InputError(
        "The file holds no state dict.",
        file=path,
        expected=f"tensors by name at the top, or in a dict such as {', '.join(_HOMES)}",
        found=keys,
        hint="save model.state_dict() with torch.save",
    )


def _networks(contents: Mapping[Any, Any], depth: int = 2) -> dict[str, Mapping[Any, Any]]:
    """The dicts with a network's stem in them, whatever a training script called them, by their place."""
    found: dict[str, Mapping[Any, Any]] = {}
    for key, value in contents.items():
        if isinstance(key, str) and isinstance(value, dict):
            if _has_stem(value):
                found[key] = value
            elif depth > 1:
                found |= {f"{key}.{place}": inner for place, inner in _networks(value, depth - 1).items()}
    return found


def _has_stem(state: Mapping[Any, Any]) -> bool:
    named = (key for key, x in state.items() if isinstance(key, str) and isinstance(x, np.ndarray))
    return any(key == _STEM or key.endswith("." + _STEM) for key in named)


def _others(names: Sequence[str]) -> str:
    listed = ", ".join(ascii(name[:80]) for name in names[:4])
    return f"others are there under {listed}" + (", ..." if len(names) > 4 else "")


def _kind(home: str, rest: Mapping[str, Any]) -> str:
    if home == "network_weights":
        return "nnU-Net v2 checkpoint"
    if "pytorch-lightning_version" in rest:
        return "Lightning checkpoint"
    if "plot_stuff" in rest or "lr_scheduler_state_dict" in rest:
        return "nnU-Net v1 checkpoint"
    return f"PyTorch state dict (under {home!r})"


def _is_state(value: Mapping[Any, Any]) -> bool:
    return any(isinstance(x, np.ndarray) and isinstance(key, str) for key, x in value.items())


def _entry(item: tuple[Any, Any]) -> str:
    key, value = item
    kind = f" (an object of {value.name[:80]})" if isinstance(value, Foreign) else ""
    return ascii(key)[:40] + kind


def _tensors(value: Mapping[Any, Any], path: Path) -> dict[str, np.ndarray]:
    named = {key: x for key, x in value.items() if isinstance(key, str)}
    for key, x in named.items():
        if isinstance(x, Foreign):
            raise InputError(
                "An entry of the state dict is an object of a kind that is not read.",
                file=path,
                expected="tensors",
                found=f"{key[:100]}: {x.name}",
                hint="save model.state_dict() of plain tensors",
            )
    return {key: x for key, x in named.items() if isinstance(x, np.ndarray)}


def _strip(state: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """The tensors of the network itself, found by its stem, without the prefixes that wrappers gave them."""
    notes = []
    state = {key.replace("_orig_mod.", ""): x for key, x in state.items()}  # torch.compile, at any depth
    prefixes = [key.removesuffix(_STEM) for key in state if key == _STEM or key.endswith("." + _STEM)]
    if len(prefixes) > 1:
        plain = [prefix for prefix in prefixes if set(prefix.split(".")[:-1]) <= _WRAPPERS]
        prefixes = plain[:1] + [prefix for prefix in prefixes if prefix not in plain[:1]]
        notes.append(f"took the network under {prefixes[0][:80]!r}; {_others(prefixes[1:])}")
    if not prefixes:
        return state, notes
    prefix = prefixes[0]
    if prefix:
        notes.append(f"stripped the prefix {prefix!r}")
    found = {key.removeprefix(prefix): x for key, x in state.items() if key.startswith(prefix)}
    # buffers of losses and metrics may sit beside the network; inside it every name begins with one of its parts
    own = {key: x for key, x in found.items() if key.split(".")[0].rstrip("0123456789_") in _PARTS}
    dropped = len(state) - len(own)
    if dropped:
        notes.append(f"left out {dropped} tensors that are not the network's")
    return own, notes


_PARTS = {
    *("dummy_tensor", "stem", "enc_block", "enc_stages", "down", "down_blocks", "bottleneck"),
    *("up", "up_blocks", "dec_block", "dec_stages", "out", "out_blocks"),
}


def _as_floats(state: Mapping[str, np.ndarray], path: Path) -> Mapping[str, np.ndarray]:
    total = sum(x.size * x.itemsize for x in state.values())
    if total > 2 * path.stat().st_size + MIB:
        raise InputError(
            "The tensors are larger than the file that should hold them.",
            file=path,
            expected=f"about {path.stat().st_size} bytes",
            found=f"{total} bytes, through tensors that share their storage",
        )
    for key, x in state.items():
        real = x.dtype.kind == "f" or x.dtype.name.startswith(("bfloat16", "float8"))
        if not real:
            raise InputError(f"The weight {key} is not a real number.", file=path, expected="floats", found=x.dtype)
    return state
