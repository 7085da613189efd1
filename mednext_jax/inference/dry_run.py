"""What a run would do: its scans, tiles, and an estimate of time and memory, from headers alone.

Time is reckoned from the multiplications of the network and what a device has been measured to do a second
(docs/performance.md), or from scans that are done already. Memory is what the arrays of one scan take.
"""

from __future__ import annotations

import dataclasses
import math
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mednext_jax.errors import InputError, shown
from mednext_jax.inference.claim import rows_before
from mednext_jax.inference.failures import Failure
from mednext_jax.inference.headers import size_of
from mednext_jax.inference.predictor import Predictor
from mednext_jax.inference.scans import Scan
from mednext_jax.inference.stream import READERS, WRITERS
from mednext_jax.inference.tile_batch import tile_bytes
from mednext_jax.inference.tiles import bucket_shape, tile_starts
from mednext_jax.io.memory import GIB
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.preprocess.trip import place_scan

# Multiplications a second of whole networks: L k5 at 128^3 in 8.3 ms on an H100, in 18.5 s on two cores, S k3 in 7.1 s.
_H100, _CPU_CORE = 7.0e13, 1.2e10
_DEVICES = {"NVIDIA H100": _H100, "NVIDIA H200": _H100}


@dataclasses.dataclass(frozen=True)
class Planned:
    """One scan of a dry run. tiles: at most, if its whole volume is computed; 0 for one that is done or fails."""

    case: str
    files: tuple[str, ...]
    tiles: int
    state: str  # "to do", "done" or "fails"


def plan(
    predictor: Predictor,
    scans: Sequence[Scan],
    output: Path,
    settings: dict[str, Any],
    failures: Sequence[Failure],
    *,
    uncertainty: bool = False,
    force: bool = False,
) -> list[dict[str, Any]]:
    """Print what a run would do, and return a row for each scan: case, files, tiles, state."""
    before = {} if force else rows_before(output, scans, settings)
    planned, largest = [], (0, 0)
    for scan in scans:
        tiles, volume, network = _sizes(predictor, scan)
        if scan.case not in before:
            largest = max(largest[0], volume), max(largest[1], network)
        done = scan.case in before
        files = tuple(str(file) for file in scan.inputs)
        planned.append(Planned(scan.case, files, 0 if done else tiles, "done" if done else "to do"))
    planned += [Planned(f.case, tuple(p.file for p in f.problems if p.file), 0, "fails") for f in failures]
    for i, one in enumerate(planned, 1):
        about = f"at most {one.tiles} tiles" if one.state == "to do" else one.state
        print(f"[{i}/{len(planned)}] {shown(one.case)}: {about}, {shown(', '.join(one.files))}")
    for failure in failures:
        print(failure)
    for model, path in zip(settings["models"], predictor.paths, strict=True):
        print(f"model    {shown(path)}, sha256 {model['sha256']}")
    for line in predictor.notices:
        print(f"         {line}")
    print(f"tiles    {sum(one.tiles for one in planned)} at most, of {predictor.recipe.patch_size} voxels (d, h, w)")
    seconds = _seconds(predictor, planned, list(before.values()), uncertainty)
    said = "not known for this device: the run says after its second scan" if seconds is None else _in_words(seconds)
    print(f"time     {said}")
    channels, classes = len(predictor.recipe.channel_names), max(1, len(predictor.recipe.labels) - 1)
    host, device = _memory(predictor, *largest, channels, classes)
    print(f"memory   about {host / GIB:.1f} GiB of the host's, {device / GIB:.1f} GiB of the device's")
    print(f"output   {shown(output)}; nothing is computed or written")
    return [dataclasses.asdict(one) for one in planned]


def macs_of_tile(config: MedNeXtConfig, patch: Sequence[int]) -> int:
    """Multiplications of the network's blocks on one tile of `patch` (d, h, w) voxels; stem and heads are little."""
    total = 0
    for kind, level, count in config.blocks():
        # A block that goes down computes on the lower level's voxels; one that goes up widens on the upper's, but its
        # convolution multiplies each voxel of the lower.
        convolved, widened = (level + change for change in {"block": (0, 0), "down": (1, 1), "up": (0, -1)}[kind.block])
        depthwise = kind.channels * kind.kernel_size**3
        products = kind.channels * kind.hidden + kind.hidden * kind.out_channels
        voxels = math.prod(patch)
        total += count * (voxels // 8**convolved * depthwise + voxels // 8**widened * products)
    return total


def _sizes(predictor: Predictor, scan: Scan) -> tuple[int, int, int]:
    """Tiles, voxels of the scan and voxels of the network's volume; 0 of a scan whose header is wrong."""
    recipe, window = predictor.recipe, predictor.window
    try:
        shape, spacing = size_of(scan.files[0], recipe.orientation)
        placed = place_scan(shape, [slice(0, n) for n in shape], spacing, recipe.spacing)
    except InputError:
        return 0, 0, 0
    spatial = [max(n, p) for n, p in zip(placed.resampled_shape, window.patch_size, strict=True)]
    bucket = bucket_shape(placed.resampled_shape, window.patch_size, window.bucket)
    return len(tile_starts(spatial, window.patch_size, window.step)), math.prod(shape), math.prod(bucket)


def _seconds(
    predictor: Predictor, planned: Sequence[Planned], before: Sequence[dict[str, Any]], uncertainty: bool
) -> float | None:
    todo = sum(one.state == "to do" for one in planned)
    if before:
        return todo * statistics.median(row["seconds"] for row in before)
    device = jax.devices()[0]
    rate = next((rate for name, rate in _DEVICES.items() if device.device_kind.startswith(name)), None)
    if device.platform == "cpu":
        rate = _CPU_CORE * len(os.sched_getaffinity(0))
    if rate is None:
        return None
    window = predictor.window
    passes = 2 ** len(window.mirror_axes) * (2 if uncertainty else 1)
    macs = sum(macs_of_tile(config, window.patch_size) for config in predictor.configs) * passes
    devices = 1 if window.mesh is None else window.mesh.size
    return macs * sum(one.tiles for one in planned) / (rate * devices)


def _memory(predictor: Predictor, scan: int, network: int, channels: int, classes: int) -> tuple[float, float]:
    """Bytes on the host and on a device for the largest scan of `scan` voxels, `network` on the network's grid."""
    window = predictor.window
    weights = sum(leaf.nbytes for net in predictor.networks for leaf in jax.tree.leaves(net.params))
    tiles = window.tile_batch * max(tile_bytes(config, window.patch_size) for config in predictor.configs)
    arrays = 4 * network * (channels + 2 * classes + 1)
    results = WRITERS * 5 * scan
    single = np.dtype(np.float32).itemsize * channels
    host = (READERS + 1) * 3 * single * scan + WRITERS * (5 + 8) * scan
    if jax.default_backend() == "cpu":
        host += weights + tiles + arrays + results
    return float(host), float(weights + tiles + arrays + results)


def _in_words(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(1, round(seconds))} s, and the compilation"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} min, and the compilation"
    return f"about {seconds / 3600:.1f} h, and the compilation"
