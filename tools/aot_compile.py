"""Compile the real training step and prediction for a TPU topology on a machine without a TPU, and say what they take.

    pip install "jax[tpu]"
    python -m tools.aot_compile configs/mednet_pvs_t2w.py --topology v5e:4x4 --mesh 16,1,1 --config.batch_size=32
    python -m tools.aot_compile configs/mednet_pvs_t2w.py --topology local

`--topology local` compiles for the devices present. Per device: memory against the chip's, FLOPs, bytes, and of a TPU
the time by both clocks of `tools.tpu_schedule`: nothing runs, and waiting for other chips is in neither. How many
tiles a volume has, a program learns when it runs: the prediction's time is that of the network on one tile, times
mirrors and tiles.

Exit status 1 if a program does not fit, 2 for a call or configuration that is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from mednext_jax.errors import is_out_of_memory
from tools.arguments import add_form, integers, some_of
from tools.tpu_schedule import CHIPS, start_dump, time_of

# What libtpu would ask a TPU VM for; the topology that is compiled for does not depend on it.
NO_TPU = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is opened, so several compilations may run at once
}


def devices_of(topology: str) -> list[Any]:
    """The devices present, or those of a TPU topology like 'v5e:4x4'; ends the program for one that is none."""
    if topology == "local":
        import jax

        return jax.devices()
    os.environ.update(NO_TPU)
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except (RuntimeError, ValueError) as error:
        reason = next((line for line in str(error).splitlines() if line), type(error).__name__)
        print(
            f"No TPU topology {topology!r}: {reason}\nExpected 'local', or for example v5e:4x4, v5p:2x2x2 or v6e:2x4, "
            "with the TPU compiler: pip install 'jax[tpu]'",
            file=sys.stderr,
        )
        raise SystemExit(2) from None


def compile_and_measure(name: str, lowered: Any, device: Any, dump: Path | None = None) -> dict[str, Any]:
    """Plain numbers of one program, per device; memory in bytes. `fits` is None where the memory is unknown.

    dump: the folder of `start_dump`, for a TPU's two clocks.
    """
    from tools import hlo
    from tools.comm_report import collectives

    chip = CHIPS.get(device.device_kind)
    limit = chip.memory * 2**30 if chip else None
    if device.platform == "gpu":
        limit = (device.memory_stats() or {}).get("bytes_limit")
    row: dict[str, Any] = {"program": name, "device": device.device_kind, "memory_limit": limit}
    start = time.monotonic()
    try:
        compiled = lowered.compile()
    except Exception as error:  # the compiler's own error type differs between backends
        if not is_out_of_memory(error):
            raise
        needed = re.search(r"required for[^(]*\(([\d.]+)G\)", str(error))
        return row | {
            "fits": False,
            "temporaries": round(float(needed[1]) * 2**30) if needed else None,
            "error": str(error)[:500],
            "compile_seconds": time.monotonic() - start,
        }
    row["compile_seconds"] = time.monotonic() - start
    memory = compiled.memory_analysis()
    row["arguments"], row["temporaries"] = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    row["peak"] = row["arguments"] + row["temporaries"] + memory.output_size_in_bytes - memory.alias_size_in_bytes
    row["fits"] = None if limit is None else row["peak"] <= limit
    program = hlo.instructions(compiled.as_text())
    row["flops"], row["bytes"] = hlo.flops(program), hlo.bytes_moved(program)
    times = time_of(compiled, dump, device.device_kind) if dump and chip else None
    row["schedule_seconds"] = times.seconds if times else None
    row["optional_seconds"] = times.optional_seconds if times else None
    row["estimated_seconds"] = times.estimated_seconds if times else None
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for collective in collectives(program):
        counts[collective.kind] += 1
        sizes[collective.kind] += collective.bytes
    row["collectives"] = {kind: {"count": counts[kind], "bytes": sizes[kind]} for kind in counts}
    return row


def show(row: dict[str, Any]) -> str:
    """The numbers of one program as text."""
    if "error" in row:
        return f"{row['program']}: does not fit: {row['error']}"

    def gib(value: float | None) -> str:
        return "?" if value is None else f"{value / 2**30:.2f} GiB"

    clocks = [
        (row["schedule_seconds"], "schedule"),
        (row["optional_seconds"], "schedule in conditions"),
        (row["estimated_seconds"], "estimate"),
    ]
    lines = [
        f"{row['program']} on {row['device']}, per device",
        f"  memory      {gib(row['peak'])} of {gib(row['memory_limit'])}: arguments {gib(row['arguments'])}, "
        f"temporaries {gib(row['temporaries'])}",
        f"  work        {row['flops'] / 1e9:.1f} GFLOP, {gib(row['bytes'])} read and written",
        "  time        "
        + (
            ", ".join(f"{1e3 * seconds:.1f} ms by the compiler's {clock}" for seconds, clock in clocks if seconds)
            or "?"
        ),
        f"  compile     {row['compile_seconds']:.0f} s",
    ]
    for kind, moved in row["collectives"].items():
        lines.append(f"  {kind:20} {moved['count']:5} x, {moved['bytes'] / 2**20:.2f} MiB")
    return "\n".join(lines)


def table_row(row: dict[str, Any], topology: str, mesh: str) -> str:
    """The report as a row of TABLE_HEAD."""

    def scaled(value: float | None, unit: float, digits: int) -> str:
        return "-" if value is None else f"{value / unit:.{digits}f}"

    moved = row.get("collectives", {})
    cells = [
        *(row["program"], topology, mesh, scaled(row["memory_limit"], 2**30, 1)),
        *(scaled(row.get(name), 2**30, 2) for name in ("arguments", "temporaries", "peak")),
        {True: "yes", False: "**no**", None: "?"}[row["fits"]],
        scaled(row.get("flops"), 1e12, 2),
        scaled(row.get("bytes"), 2**30, 1),
        *(scaled(row.get(name), 1e-3, 1) for name in ("schedule_seconds", "optional_seconds", "estimated_seconds")),
        ", ".join(f"{kind} {m['count']} x {m['bytes'] / 2**20:.1f} MiB" for kind, m in moved.items()) or "-",
        f"{row['compile_seconds']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


TABLE_HEAD = (
    "| program | topology | mesh | memory (GiB) | arguments | temporaries | peak | fits | TFLOP | GiB moved | "
    "schedule (ms) | in conditions (ms) | estimate (ms) | collectives | compile (s) |\n" + "| --- " * 15 + "|"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="FILE.py or FILE.py:ARGUMENT")
    parser.add_argument(
        "--topology", default="local", help="'local', or a TPU's, for example v5e:4x4, v5p:2x2x2, v6e:2x4"
    )
    parser.add_argument(
        "--mesh",
        type=integers("-1,1,1"),
        default=(-1, 1, 1),
        help="devices along data, space, height; fewer than all may be used",
    )
    parser.add_argument("--programs", type=some_of(("train", "predict")), default=["train", "predict"])
    parser.add_argument(
        "--volume", type=integers("256,256,256"), default=(256,) * 3, help="d,h,w of the predicted volume"
    )
    add_form(parser)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--markdown", action="store_true", help="print rows of a table")
    arguments, overrides = parser.parse_known_args()
    if arguments.json and not arguments.json.parent.is_dir():
        parser.error(f"--json: there is no folder {arguments.json.parent}")

    dump = None if arguments.topology == "local" else start_dump()
    devices = devices_of(arguments.topology)
    import numpy as np

    from mednext_jax.errors import InputError
    from mednext_jax.parallel.mesh import make_mesh
    from mednext_jax.train.configuration import TrainConfig
    from mednext_jax.train.recipes import load_config
    from tools.programs import lower_prediction, lower_tile, lower_train_step, operations_in, rounds_of_tiles

    rows = []
    try:
        config = TrainConfig.of(load_config(arguments.config, ["--config.data=none", *overrides]))
        data, space, height = arguments.mesh
        mesh = make_mesh(data, space, height, devices=devices if data == -1 else devices[: data * space * height])
        ops = operations_in("xla", devices[0].platform) if arguments.form == "xla" else None
        used, volume = np.asarray(mesh.devices), arguments.volume
        if arguments.markdown:
            print(TABLE_HEAD)
        for name in arguments.programs:
            if name == "train":
                row = compile_and_measure(name, lower_train_step(config, mesh, ops), devices[0], dump)
            else:
                row = compile_and_measure(name, lower_prediction(config, used, volume, ops), devices[0], dump)
                tile = compile_and_measure("tile", lower_tile(config, devices[0], ops), devices[0], dump)
                for clock in ("schedule_seconds", "optional_seconds", "estimated_seconds"):
                    one = tile.get(clock)
                    row[clock] = one and one * rounds_of_tiles(config, mesh.size, volume)
            rows.append(row)
            shape = ",".join(map(str, used.shape))
            print(table_row(row, arguments.topology, shape) if arguments.markdown else show(row), flush=True)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    if arguments.json:
        settings = {"topology": arguments.topology, "mesh": arguments.mesh, "config": config.plain()}
        arguments.json.write_text(json.dumps({**settings, "programs": rows}, indent=2) + "\n")
    return int(any(row["fits"] is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
