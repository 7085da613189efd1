"""The time of a program compiled for a TPU, by the compiler's own final schedule, beside its cost model's estimate.

    pip install "jax[tpu]"
    python -m tools.tpu_schedule --topology v5e:2x4
    python -m tools.tpu_schedule my_module:lowered --topology v5p:2x2x2 --top 20

Without a program: five of known cost. A program is MODULE:FUNCTION, FUNCTION(device) -> `jax.stages.Lowered`. Nothing
runs, and no TPU is needed: libtpu writes the bundles of every kernel, XLA's fusions and Pallas's kernels alike.

    time of a kernel = the larger of  its bundles, loops in full / clock
                                      bytes of its arrays as they lie in HBM / (0.9 x bandwidth)

Both clocks are wrong in their own way:

    schedule   no stall of any unit, full overlap of memory and compute, every array moved once (not again for the next
               tile or a halo), conditions always taken, collectives and gaps between kernels free: too short
    estimate   the compiler's `estimated_cycles`, which choose its tiles: bfloat16 counted as float32 (what memory
               bounds is 2 to 3 times too slow), convolutions with few rows up to 2 times too fast, Pallas kernels 0
"""

from __future__ import annotations

import argparse
import atexit
import collections
import dataclasses
import importlib
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from tools import hlo
from tools.tpu_bundles import KernelSchedule, kernel_schedule


@dataclasses.dataclass(frozen=True)
class Chip:
    """A chip's published numbers: `clock` Hz, `bandwidth` bytes/s and `memory` GiB of HBM, `peak` bfloat16 FLOP/s."""

    clock: float
    bandwidth: float
    memory: int
    peak: float


# By `device_kind`. The clock is not published: it is the peak over two times the multipliers (v5e: 4 units of 128 x
# 128; v4 and v5p: two cores of these; v6e: 2 units of 256 x 256).
CHIPS = {
    "TPU v4": Chip(1.05e9, 1228e9, 32, 275e12),
    "TPU v5 lite": Chip(1.5e9, 819e9, 16, 197e12),
    "TPU v5": Chip(1.75e9, 2765e9, 95, 459e12),
    "TPU v6 lite": Chip(1.75e9, 1640e9, 32, 918e12),
}
# The share of the published bandwidth that is taken to be reached.
REACHED = 0.9
# What waits for other chips, and is not timed.
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-")


def start_dump() -> Path:
    """Make libtpu write the schedules of what this process compiles to a folder, until it ends; returns the folder.

    Must be called before libtpu is loaded, which happens with the first topology. What `LIBTPU_INIT_ARGS` holds stays.
    """
    import jax

    jax.config.update("jax_enable_compilation_cache", False)  # a program from the cache has no schedule
    folder = Path(tempfile.mkdtemp(prefix="tpu-schedules-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    flags = {
        "xla_jf_dump_to": folder,
        "xla_jf_dump_llo_text": "true",
        "xla_jf_dump_hlo_text": "false",
        # Without this, a hundred times as much.
        "xla_jf_dump_llo_pass_label_regex": "^final_(bundles|hlo-static).*",
    }
    own = os.environ.get("LIBTPU_INIT_ARGS", "")
    os.environ["LIBTPU_INIT_ARGS"] = " ".join([own, *(f"--{name}={value}" for name, value in flags.items())]).strip()
    return folder


@dataclasses.dataclass(frozen=True)
class KernelTime:
    """One kernel of a program. times: runs of it in one run of the program; seconds are of one.

    compute: none where libtpu wrote no schedule of it; estimate: of the cost model, none where it gives none.
    optional: in a branch of a condition.
    """

    name: str
    label: str
    times: int
    compute: float | None
    memory: float
    estimate: float | None
    slots: dict[str, float]
    optional: bool

    @property
    def seconds(self) -> float:
        return max(self.compute or 0.0, self.memory)


@dataclasses.dataclass(frozen=True)
class ProgramTime:
    """Both clocks' times of one run of a program, in seconds; `unscheduled` kernels had only their bytes counted.

    waits: for copies into the fast memory that the kernels between their start and their end could not hide.
    """

    kernels: list[KernelTime]
    waits: float
    unscheduled: int
    collectives: int

    @property
    def seconds(self) -> float:
        """The time by schedule."""
        return self.waits + sum(one.times * one.seconds for one in self.kernels)

    @property
    def optional_seconds(self) -> float:
        """What of `seconds` is in branches of conditions."""
        return sum(one.times * one.seconds for one in self.kernels if one.optional)

    @property
    def estimated_seconds(self) -> float:
        return sum(one.times * (one.estimate or 0.0) for one in self.kernels)


def time_of(compiled: Any, dump: Path, device_kind: str) -> ProgramTime:
    """The time of what was just compiled on one `device_kind`, a key of `CHIPS`; empties the folder of `start_dump`.

    Two programs' kernels may share a name: call it after each compilation. ValueError if libtpu wrote nothing.
    """
    schedules = _read(dump)
    if not schedules:
        raise ValueError(f"libtpu wrote no schedule to {dump}; was it loaded before start_dump()?")
    return _time(hlo.instructions(compiled.as_text()), schedules, CHIPS[device_kind])


def _read(dump: Path) -> dict[str, KernelSchedule]:
    """Schedules by the kernels' names, from a dump that is then removed."""
    found = {}
    for path in sorted(dump.glob("*-final_bundles.txt")):
        # TIME-NAME-NUMBER-final_bundles.txt; the number is that of the pass.
        if match := re.fullmatch(r"(\d+-(.+))-\d+-final_bundles\.txt", path.name):
            beside = [
                other
                for other in dump.glob(f"{match[1].split('-', 1)[0]}-*-final_hlo-static-per-bundle-utilization.txt")
                if other.name.startswith(f"{match[1]}-")
            ]
            found[match[2]] = kernel_schedule(path.read_text(), beside[0].read_text() if beside else None)
    for path in dump.iterdir():
        path.unlink()
    return found


def _time(program: list[hlo.Instruction], schedules: dict[str, KernelSchedule], chip: Chip) -> ProgramTime:
    bodies = collections.defaultdict(list)
    for one in program:
        bodies[one.computation].append(one)
    known = {(one.computation, one.name): one for one in program}
    moved = [(one, size) for one, size in hlo.kernels(program, lambda one: one.main_memory_bytes)]
    # Equal kernels are compiled once, under the name of one of them.
    alike = {_alike(one, known, bodies): schedules[one.name] for one, _ in moved if one.name in schedules}
    per_byte = 1 / (REACHED * chip.bandwidth)
    kernels, unscheduled, collectives, waits = [], 0, 0, 0.0
    bytes_of = {(one.computation, one.name): size for one, size in moved}
    for body in bodies.values():
        pending: dict[str, float] = {}  # copies on their way: seconds of them that nothing hides yet
        for one in body:
            if one.operation.endswith("-done"):
                waits += one.times * sum(pending.pop(name, 0.0) for name in one.operands)
            if (one.computation, one.name) not in bytes_of:
                continue
            if one.operation.startswith(_COLLECTIVES):
                collectives += one.times
                continue
            if one.operation.endswith("-start"):
                pending[one.name] = per_byte * _copied(one)
                continue
            schedule = schedules.get(one.name) or alike.get(_alike(one, known, bodies))
            estimate = re.search(r'"estimated_cycles":"(\d+)"', one.arguments)
            kernel = KernelTime(
                one.name,
                _label(one),
                one.times,
                schedule.bundles / chip.clock if schedule else None,
                per_byte * bytes_of[one.computation, one.name],
                int(estimate[1]) / chip.clock if estimate else None,
                schedule.slots if schedule else {},
                one.optional,
            )
            kernels.append(kernel)
            unscheduled += schedule is None and estimate is not None
            idle = max((kernel.compute or 0.0) - kernel.memory, 0.0)
            for name, left in pending.items():
                hidden = min(left, idle)
                pending[name], idle = left - hidden, idle - hidden
    return ProgramTime(kernels, waits, unscheduled, collectives)


def _copied(one: hlo.Instruction) -> int:
    """HBM bytes of a copy that runs beside the kernels: its result holds both ends."""
    ends = [(size, main) for (_, plain), (size, main) in zip(one.arrays, one.layouts, strict=True) if plain > 8]
    return min((size for size, _ in ends), default=0) * sum(main for _, main in ends[:2])


def _alike(one: hlo.Instruction, known: dict[tuple[str, str], hlo.Instruction], bodies: dict[str, Any]) -> Any:
    """What equal kernels have in common."""
    operands = [known[one.computation, name].result for name in one.operands if (one.computation, name) in known]
    called = re.search(r"\bcalls=%?([\w.\-]+)", one.arguments)
    inside = tuple(_alike(part, known, bodies) for part in bodies[called[1]]) if called else ()
    rest = re.sub(r"(, )?metadata=\{.*?\}|%[\w.\-]+|\"(used_)?scoped_memory_configs\":\[.*?\]", "", one.arguments)
    text = "" if called or one.operation in ("parameter", "fusion") else rest
    return one.operation, one.result, tuple(operands), inside, text


def _label(one: hlo.Instruction) -> str:
    """The end of the path in the source that a kernel comes from, or its operation."""
    path = re.search(r'op_name="([^"]*)"', one.arguments)
    return "/".join(path[1].split("/")[-2:]) if path else one.operation


def table(time: ProgramTime, top: int) -> str:
    """The `top` slowest kernels by schedule, as a Markdown table of milliseconds."""

    def ms(value: float | None, times: int) -> str:
        return "-" if value is None else f"{1e3 * times * value:.3f}"

    lines = [
        "| kernel | from | times | schedule (ms) | compute | memory | estimate (ms) | slots |\n" + "| --- " * 8 + "|"
    ]
    slowest = sorted(time.kernels, key=lambda one: -one.times * one.seconds)
    for one in slowest[:top]:
        busy = sorted(one.slots.items(), key=lambda item: -item[1])
        times = [ms(value, one.times) for value in (one.seconds, one.compute, one.memory, one.estimate)]
        shown = " ".join(f"{unit} {100 * share:.0f} %" for unit, share in busy[:3] if share > 0.1)
        lines.append(f"| {' | '.join([one.name, one.label[-60:], str(one.times), *times, shown])} |")
    return "\n".join(lines)


def summary(time: ProgramTime) -> str:
    """Both clocks' sums and what is in neither, in one line."""
    parts = [
        f"{1e3 * time.seconds:.3f} ms by schedule, {1e3 * time.estimated_seconds:.3f} ms by the compiler's estimate",
        f"in conditions {1e3 * time.optional_seconds:.3f} ms" if time.optional_seconds else "",
        f"waits for copies {1e3 * time.waits:.3f} ms" if time.waits else "",
        f"{time.unscheduled} kernels by their bytes only" if time.unscheduled else "",
        f"{time.collectives} collectives not timed" if time.collectives else "",
    ]
    return "; ".join(filter(None, parts))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "program", nargs="?", help="MODULE:FUNCTION(device) -> jax.stages.Lowered; without it five of known cost"
    )
    parser.add_argument("--topology", default="v5e:2x4", help="a TPU's, for example v5e:2x4, v5p:2x2x2, v6e:2x4")
    parser.add_argument("--top", type=int, default=12, help="show so many of the slowest kernels")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON instead")
    arguments = parser.parse_args()
    if arguments.program and not re.fullmatch(r"[\w.]+:\w+", arguments.program):
        parser.error(f"{arguments.program!r} is not MODULE:FUNCTION")

    from tools.aot_compile import devices_of

    dump = start_dump()
    device = devices_of(arguments.topology)[0]
    if device.device_kind not in CHIPS:
        parser.error(f"the clock and the bandwidth of a {device.device_kind} are not known")
    if not arguments.program:
        from tools.tpu_known import compare

        return compare(device, dump, as_json=arguments.json)
    module, name = arguments.program.split(":")
    compiled = getattr(importlib.import_module(module), name)(device).compile()
    time = time_of(compiled, dump, device.device_kind)
    memory = compiled.memory_analysis()
    if arguments.json:
        numbers = {
            "schedule_seconds": time.seconds,
            "optional_seconds": time.optional_seconds,
            "estimated_seconds": time.estimated_seconds,
            "temporaries": memory.temp_size_in_bytes,
            "kernels": [dataclasses.asdict(one) | {"seconds": one.seconds} for one in time.kernels],
        }
        print(json.dumps(numbers, indent=2))
    else:
        print(table(time, arguments.top))
        print(f"{device.device_kind}: {summary(time)}; temporaries {memory.temp_size_in_bytes / 2**20:.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
