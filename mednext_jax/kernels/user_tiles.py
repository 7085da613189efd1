"""A user's own tile sizes, as `tools.gpu.tune_kernels` found them for one kind of GPU, beside the compiled programs."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

import jax

from mednext_jax.compilation_cache import cache_folder
from mednext_jax.kernels.gpus import capability_of, tell_once
from mednext_jax.kernels.kept import read_kept, write_kept
from mednext_jax.kernels.tuned_tiles import SMALL_TILES, TILES, Key, Tiles

_LARGEST = 1024  # of any size: what a file asks for is compiled


def path_of_tiles(device: jax.Device) -> Path:
    """The file of the tiles for GPUs of this name and compute capability."""
    said = f"{device.device_kind}\0{capability_of(device)}"
    return cache_folder() / "tiles" / f"{hashlib.sha256(said.encode()).hexdigest()[:32]}.json"


def write_tiles(device: jax.Device, tiles: Mapping[Key, Tiles]) -> Path:
    """Keep `tiles` for GPUs like `device`; what was kept for other entries stays. Returns the file."""
    whole = {**read_tiles(device), **tiles}
    entries = [[*key, sizes] for key, sizes in sorted(whole.items())]
    path = path_of_tiles(device)
    write_kept(path, {"device": device.device_kind, "capability": capability_of(device), "tiles": entries})
    return path


def read_tiles(device: jax.Device) -> dict[Key, Tiles]:
    """The kept tiles; none where nothing was kept. A file that is damaged is left out, with one log line."""
    path = path_of_tiles(device)
    if not path.is_file():
        return {}
    content = read_kept(path)
    try:
        found = {(str(kernel), first, second): sizes for kernel, first, second, sizes in (content or {})["tiles"]}
        whole = all(_is_entry(key, sizes) for key, sizes in found.items())
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        tell_once(f"{path} does not hold tile sizes as tune_kernels writes them: the package's own are used")
        return {}
    return found


def _is_entry(key: Key, sizes: Tiles) -> bool:
    """Whether the package's tables have such an entry, with the same fields."""
    known = TILES.get(key) or SMALL_TILES.get(key)
    return known is not None and known.keys() == sizes.keys() and all(_is_size(size) for size in sizes.values())


def _is_size(size: object) -> bool:
    return type(size) is int and 1 <= size <= _LARGEST


@functools.cache
def tiles_here() -> Mapping[Key, Tiles]:
    """The kept tiles of this process's first device."""
    return read_tiles(jax.local_devices()[0])
