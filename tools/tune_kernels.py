"""Time the candidate tiles of every kernel of a MedNeXt on this GPU and rewrite mednext_jax/ops/triton/table.py.

    python -m tools.tune_kernels --variant L --kernel-size 5 --patch 128

Each block of the network runs forward and backward with one entry of the table changed at a time; the fastest without
a register spill stays. Entries that the network does not use keep their tiles.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.ops.triton import table, tiles
from tools.bench_gpu import timed
from tools.gpu_cases import Case, cases, draw
from tools.kernel_report import SHARED_BYTES, compile_launch, launches

Key = tuple[str, int, int]
Tiles = dict[str, int]
# What is tried for each field of an entry.
CHOICES: dict[str, tuple[int, ...]] = {
    "planes": (2, 4, 8, 16, 32, 64),
    "rows": (1, 2, 4),
    "stages": (1, 2, 3),
    "taps": (2, 3, 5),
    "programs": (2, 4, 8, 16, 33, 66, 132),
    "voxels": (32, 64, 128),
    "hidden": (16, 32, 64),
    "warps": (4, 8),
}
GAIN = 0.98  # a change must beat the present by this factor: less is noise


def used_entries(case: Case) -> list[Key]:
    """The table's entries that a block's forward and backward look up."""
    seen: dict[Key, None] = {}
    original = tiles.entry

    def entry(*key: Any) -> Tiles | None:
        found = original(*key)
        if found is not None:
            seen[key] = None
        return found

    tiles.entry = entry
    jax.clear_caches()
    try:
        jax.eval_shape(case.forward_and_backward, *case.arguments())
    finally:
        tiles.entry = original
    return list(seen)


def candidates(entry: Tiles) -> Iterator[Tiles]:
    """Neighbours of an entry: every pair of its fields at every choice, the others kept."""
    fields = [name for name in entry if name in CHOICES]
    tried = {tuple(entry.items())}
    for pair in itertools.combinations(fields, 2):
        for values in itertools.product(*(CHOICES[name] for name in pair)):
            candidate = {**entry, **dict(zip(pair, values, strict=True))}
            if tuple(candidate.items()) not in tried:
                tried.add(tuple(candidate.items()))
                yield candidate


def fits(case: Case) -> bool:
    """Whether no kernel of the block spills registers or wants more shared memory than there is."""
    for launch in launches(case.forward_and_backward, *case.arguments()):
        try:
            report = compile_launch(launch)
        except Exception as error:  # Triton raises many kinds for tiles that it cannot compile
            print(f"    {launch.name}: {type(error).__name__}")
            return False
        if report.spilled_bytes or report.shared_bytes > SHARED_BYTES:
            return False
    return True


def measure(case: Case, arguments: Any, repeats: int) -> float:
    jax.clear_caches()  # the traced block remembers the tiles that it was traced with
    return timed(case.forward_and_backward, arguments, repeats)[0]


def tune(case: Case, repeats: int) -> None:
    arguments = draw(case.arguments())
    best = measure(case, arguments, repeats)
    print(f"{case.name}: {best:.3f} ms", flush=True)
    for key in used_entries(case):
        for candidate in candidates(tiles.TILES[key]):
            before = tiles.TILES[key]
            tiles.TILES[key] = candidate
            jax.clear_caches()
            took = measure(case, arguments, repeats) if fits(case) else float("inf")
            if took < GAIN * best:
                best = took
                print(f"  {key}: {candidate} {best:.3f} ms", flush=True)
            else:
                tiles.TILES[key] = before


def write_table() -> None:
    """table.py again, with the tiles of this process; comments between entries are kept by their order."""
    path = Path(table.__file__)
    lines = []
    for line in path.read_text().splitlines():
        if line.startswith("    ("):
            key = eval(line[: line.index(")") + 1])  # the file is this repository's own
            sizes = ", ".join(f'"{name}": {size}' for name, size in table.TILES[key].items())
            line = f"{line[: line.index(')') + 1]}: {{{sizes}}},"
        lines.append(line)
    path.write_text("\n".join(lines) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="L", choices=list("SBML"))
    parser.add_argument("--kernel-size", type=int, default=5)
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    if jax.default_backend() != "gpu":
        print("no GPU: nothing to tune", file=sys.stderr)
        return 2
    config = MedNeXtConfig.variant(options.variant, kernel_size=options.kernel_size, dtype="bfloat16")
    for case in cases(config, (options.patch,) * 3, batch=2):
        tune(case, options.repeats)
        write_table()
    return 0


if __name__ == "__main__":
    sys.exit(main())
