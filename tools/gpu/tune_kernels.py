"""Time the candidate tiles of every kernel of a MedNeXt on this GPU and keep the fastest for GPUs like it.

    python -m tools.gpu.tune_kernels --variant L --kernel-size 5 --patch 128

They are kept beside the compiled programs (~/.cache/mednext_jax/tiles) and taken from the next start on; the package
stays as it is, unless --package asks to rewrite mednext_jax/kernels/tuned_tiles.py instead.

Needs PyTorch, which launches single kernels. Each entry of the table is changed in two fields at a time; the fastest
candidate without a register spill stays, by the sum over the network's launches. Entries that the network does not use
keep their tiles.
"""

from __future__ import annotations

import argparse
import ast
import collections
import concurrent.futures
import functools
import itertools
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from mednext_jax.kernels import tile_sizes, tuned_tiles
from mednext_jax.kernels.gpus import SHARED_BYTES
from mednext_jax.kernels.tuned_tiles import SMALL_TILES, TILES, Key, Tiles
from mednext_jax.kernels.user_tiles import write_tiles
from mednext_jax.model.config import MedNeXtConfig
from tools.gpu.cases import Case, cases
from tools.gpu.kernel_report import CAPABILITIES, Launch, compile_launch, compiled_kernel, launches, use_tiles_of

# What is tried for each field of an entry.
CHOICES: dict[str, tuple[int, ...]] = {
    "planes": (4, 8, 16, 32, 64),
    "rows": (1, 2, 4),
    "stages": (1, 2, 3),
    "taps": (2, 3, 5),
    "programs": (4, 8, 16, 33, 66, 132),
    "voxels": (32, 64, 128),
    "hidden": (32, 64, 128),
    "warps": (4, 8),
}
GAIN = 0.98  # a change must beat the present by this factor: less is noise


def launches_of(case: Case, changed: tuple[Key, Tiles] | None = None) -> tuple[list[Launch], set[Key]]:
    """What a block's forward and backward launch, and the table's entries that they look up.

    changed: an entry with other tiles than the table's.
    """
    used: set[Key] = set()
    original = tile_sizes.entry

    def entry(*key: Any) -> Tiles | None:
        found = changed[1] if changed is not None and key == changed[0] else original(*key)
        if found is not None:
            used.add(key)
        return found

    tile_sizes.entry = entry
    jax.clear_caches()  # the traced block remembers the tiles that it was traced with
    try:
        return launches(case.forward_and_backward, case.output, *case.arguments()), used
    finally:
        tile_sizes.entry = original


def candidates(entry: Tiles) -> Iterator[Tiles]:
    """Neighbours of an entry: every pair of its fields at every choice, the others kept; itself first."""
    fields = [name for name in entry if name in CHOICES]
    tried = {tuple(entry.items()): entry}
    for pair in itertools.combinations(fields, 2):
        for values in itertools.product(*(CHOICES[name] for name in pair)):
            candidate = {**entry, **dict(zip(pair, values, strict=True))}
            tried.setdefault(tuple(candidate.items()), candidate)
    yield from tried.values()


def compile_candidate(
    used_by: list[tuple[Case, list[str]]], key: Key, tiles_tried: Tiles, capability: int
) -> collections.Counter[Launch] | None:
    """What the blocks launch with these tiles, compiled on disk; None where they do not fit the block or the chip.

    used_by: blocks, and the names of the kernels that each launches now.
    """
    use_tiles_of(capability)
    found: collections.Counter[Launch] = collections.Counter()
    try:
        for case, names in used_by:
            here, _ = launches_of(case, (key, tiles_tried))
            if [launch.name for launch in here] != names:
                return None  # a block that left the kernel for XLA's operations
            for launch in here:
                found[launch] += case.count
        for launch in found:
            report = compile_launch(launch, capability)
            if report.spilled_bytes or report.shared_bytes > CAPABILITIES[capability]:
                return None
    except Exception as error:  # Triton raises many kinds for tiles that it cannot compile
        print(f"  {key} {tiles_tried}: {type(error).__name__}", flush=True)
        return None
    return found


def time_launches(found: collections.Counter[Launch], capability: int) -> float:
    """Milliseconds that the launches take together on this GPU, on random data and without the host's gaps."""
    return sum(count * milliseconds(launch, capability) for launch, count in found.items())


@functools.cache
def milliseconds(launch: Launch, capability: int) -> float:
    import torch
    import triton

    types = {"*bf16": torch.bfloat16, "*fp32": torch.float32}
    arrays = [
        torch.randn(shape, device="cuda").to(types[kind])
        for shape, kind in zip(launch.shapes, launch.types, strict=True)
    ]
    kernel = compiled_kernel(launch, capability)
    grid = (*launch.grid, 1, 1)[:3]
    constants = dict(launch.constants)
    values = [*arrays, *(constants[name] for name in launch.kernel.arg_names if name in constants)]
    return triton.testing.do_bench_cudagraph(lambda: kernel[grid](*values), rep=5, return_mode="median")


class Gpu:
    """A process of its own that times kernels: one that crashes takes the process along, and the next starts anew."""

    def __init__(self, capability: int) -> None:
        self.capability = capability
        self._pool = self._start()

    def time(self, found: collections.Counter[Launch]) -> float:
        """Raises what the kernels raised."""
        try:
            return self._pool.submit(time_launches, found, self.capability).result()
        except Exception:
            self._pool.shutdown(cancel_futures=True)
            self._pool = self._start()
            raise

    @staticmethod
    def _start() -> concurrent.futures.ProcessPoolExecutor:
        return concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def tune(
    listed: list[Case], only: list[str], pool: concurrent.futures.Executor, until: float, capability: int
) -> dict[Key, Tiles]:
    """Faster tiles for the entries that the blocks use and `only` names, where there are any."""
    users: dict[Key, list[tuple[Case, list[str]]]] = collections.defaultdict(list)
    for case in listed:
        launched, used = launches_of(case)
        for key in used:
            users[key].append((case, [launch.name for launch in launched]))
    present = {key: tile_sizes.entry(*key) or {} for key in users}
    chosen = sorted(key for key in users if not only or any("/".join(map(str, key)).startswith(o) for o in only))
    jobs = {
        key: [
            (new, pool.submit(compile_candidate, users[key], key, new, capability)) for new in candidates(present[key])
        ]
        for key in chosen
    }
    gpu = Gpu(capability)
    found_tiles = {}
    for key, compiled in jobs.items():
        best, kept = float("inf"), present[key]
        for new, job in compiled:
            if time.monotonic() > until:
                job.cancel()
                continue
            found = job.result()
            if found is None:
                continue
            try:
                took = gpu.time(found)
            except Exception as error:  # more threads than the chip gives one program, or worse
                print(f"  {key} {new}: {type(error).__name__}", flush=True)
                continue
            if took < GAIN * best:
                print(f"{key} {new} {took:.3f} ms", flush=True)
                best, kept = took, new
        if kept != present[key]:
            found_tiles[key] = kept
    return found_tiles


def write_table(path: Path, found: Mapping[Key, Tiles], small: bool) -> None:
    """The package's tables in `path` again, with the tiles that were found; comments and order stay.

    small: of a GPU with little shared memory. Its table gains a line where it has none and an H100's tiles differ.
    """
    added = {key: tiles for key, tiles in found.items() if small and key not in SMALL_TILES and tiles != TILES[key]}
    lines, in_small = [], False
    for line in path.read_text().splitlines():
        in_small = in_small or line.startswith("SMALL_TILES")
        if in_small and line == "}":
            lines += [_line(key, tiles) for key, tiles in sorted(added.items())]
        key = ast.literal_eval(line[: line.index(")") + 1].strip()) if line.startswith("    (") else None
        lines.append(_line(key, found[key]) if key in found and in_small == small else line)
    path.write_text("\n".join(lines) + "\n")


def _line(key: Key, tiles: Tiles) -> str:
    kernel, first, second = key
    sizes = ", ".join(f'"{name}": {size}' for name, size in tiles.items())
    return f'    ("{kernel}", {first}, {second}): {{{sizes}}},'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="L", choices=list("SBML"))
    parser.add_argument("--kernel-size", type=int, default=5)
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2], help="the sum over these counts")
    parser.add_argument("--only", nargs="+", default=[], help="entries that begin so, e.g. mlp mlp_input/128")
    parser.add_argument("--package", action="store_true", help="rewrite the package's table, for every user")
    parser.add_argument("--minutes", type=float, default=60, help="what is not timed by then keeps its tiles")
    options = parser.parse_args()
    if jax.default_backend() != "gpu":
        print("no GPU: nothing to tune", file=sys.stderr)
        return 2
    device = jax.devices()[0]
    capability = int(device.compute_capability.replace(".", ""))
    if capability not in CAPABILITIES:
        print(f"the kernels do not run on a {device.device_kind}: nothing to tune", file=sys.stderr)
        return 2
    config = MedNeXtConfig.variant(options.variant, kernel_size=options.kernel_size, dtype="bfloat16")
    # Fresh processes, which must not take the GPU: they only compile.
    os.environ["JAX_PLATFORMS"] = "cpu"
    with concurrent.futures.ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        until = time.monotonic() + 60 * options.minutes
        listed = [case for batch in options.batch for case in cases(config, (options.patch,) * 3, batch)]
        found = tune(listed, options.only, pool, until, capability)
        pool.shutdown(cancel_futures=True)
    path = Path(tuned_tiles.__file__)
    if options.package:
        write_table(path, found, small=CAPABILITIES[capability] < SHARED_BYTES["8.0"])
    else:
        path = write_tiles(device, found)
    print(f"{len(found)} entries are faster now, in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
