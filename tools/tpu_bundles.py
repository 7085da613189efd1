"""The final schedule of one TPU kernel, as libtpu dumps it: how many bundles it runs, and which units they use.

A TensorCore issues one bundle of instructions a cycle. libtpu writes every kernel's bundles (`*-final_bundles.txt`),
and how many slots of each unit they fill (`*-final_hlo-static-per-bundle-utilization.txt`), be the kernel a fusion of
XLA's or Pallas's. A loop carries its own exit test, so the text alone tells how often each bundle runs: on a chip of
two cores, on each.
"""

from __future__ import annotations

import dataclasses
import itertools
import re

_BUNDLE = re.compile(r"^ *(0x[0-9a-f]+|0) +(?:[A-Z]{2})? *: *[> ]*\{")
_REGION = re.compile(r"Start region (\d+)")
_EXIT = re.compile(r"(%\w+) = scmp\.ge\.s32\.totalorder (?:\(\S+\), )?[^,;]+, (\S+) /\* loop exit test")
_BRANCH = re.compile(r"sbr\.rel \(!(%\w+)\) target = \$region(\d+)")
_STAGE = re.compile(r"iteration index, stage = (\d+)")
# Bundles that still run after a branch.
_DELAY = 4


@dataclasses.dataclass(frozen=True)
class Loop:
    """Bundles `first` to `last` of a kernel, run `trips` times; none where the text does not tell."""

    first: int
    last: int
    trips: int | None


@dataclasses.dataclass(frozen=True)
class KernelSchedule:
    """What one run of a kernel issues, by its text.

    bundles: all, loops counted in full. slots: by unit, the share of its slots that they fill. complete: whether every
    loop's length was told; one that was not counts as one trip. A bundle in a condition counts as if it always ran.
    """

    bundles: int
    slots: dict[str, float]
    complete: bool


def kernel_schedule(bundles: str, utilization: str | None = None) -> KernelSchedule:
    """The schedule in the texts of a kernel's two files; without the second, the units are not known."""
    addresses, found = _loops(bundles)
    runs = dict.fromkeys(addresses, 1)
    for loop in found:
        for address in range(loop.first, loop.last + 1):
            if address in runs:
                runs[address] *= loop.trips or 1
    total = sum(runs.values())
    slots = {} if utilization is None or not total else _slots(utilization, list(runs.values()), total)
    return KernelSchedule(total, slots, all(loop.trips is not None for loop in found))


def _loops(text: str) -> tuple[list[int], list[Loop]]:
    """The addresses of all bundles, and the loops among them."""
    addresses: list[int] = []
    regions: dict[str, int] = {}
    exits: dict[str, str] = {}
    branches: list[tuple[int, str, str]] = []  # address, condition, region
    stages: list[tuple[int, int]] = []
    for line in text.splitlines():
        if start := _BUNDLE.match(line):
            addresses.append(int(start[1], 16))
        if not addresses:
            continue
        here = addresses[-1]
        for region in _REGION.findall(line):
            regions.setdefault(region, here)
        exits |= dict(_EXIT.findall(line))
        branches += [(here, *branch) for branch in _BRANCH.findall(line)]
        stages += [(here, int(stage)) for stage in _STAGE.findall(line)]
    last = addresses[-1] if addresses else 0
    spans = [
        (regions[region], min(here + _DELAY, last), exits.get(condition, ""))
        for here, condition, region in branches
        if regions.get(region, last + 1) <= here
    ]
    loops = []
    for first, end, limit in spans:
        inner = [(a, b) for a, b, _ in spans if first < a and b <= end]
        own = [stage for at, stage in stages if first <= at <= end and not any(a <= at <= b for a, b in inner)]
        # A pipelined loop runs on until its last stage has seen the last of the grid; its first turns skip the body.
        loops.append(Loop(first, end, max(int(limit) - max(own, default=0), 1) if limit.isdigit() else None))
    return addresses, loops


def _slots(text: str, runs: list[int], total: int) -> dict[str, float]:
    head, _, rows = text.partition("UTILIZATION:\n")
    units, capacities = (line for line in head.splitlines() if line and not line.startswith("=="))
    used = [0] * len(capacities.split())
    for times, row in itertools.zip_longest(runs, filter(str.strip, rows.splitlines()), fillvalue=""):
        if times and row:
            used = [sum_ + int(times) * int(slots) for sum_, slots in zip(used, row.split(), strict=True)]
    names = [unit.strip() for unit in units.split(",")]
    return {
        name: count / total / int(most)
        for name, count, most in zip(names, used, capacities.split(), strict=True)
        if ":" not in name  # fills and spills are loads and stores, too
    }
