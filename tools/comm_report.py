"""What a compiled training step sends between devices, against the least that its halos need.

    JAX_NUM_CPU_DEVICES=8 python -m tools.comm_report configs/mednext.py:S/5 --mesh 2,4,1 --config.patch_size=64,64,64

Prints a table of the collectives, in bytes that a device sends or holds for one step, and the theoretical bytes of
the halos: for each depthwise convolution the planes that a part needs of its neighbours, forward and back.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
from collections.abc import Iterable

from mednext_jax.model.config import LEVELS, STAGES, MedNeXtConfig
from mednext_jax.ops.depthwise import conv_halo, down_halo, up_halo
from mednext_jax.parallel.sharded_ops import Layout
from tools.arguments import integers
from tools.hlo import Instruction, instructions

KINDS = ("collective-permute", "all-gather", "all-reduce", "reduce-scatter", "all-to-all")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a compiled program. bytes: of its largest array, on one device."""

    kind: str
    shapes: tuple[str, ...]
    bytes: int


def collectives(program: Iterable[Instruction]) -> list[Collective]:
    """Collectives that one run of a compiled program starts; one in a loop is there for each turn."""
    found = []
    for one in program:
        kind = one.operation.removesuffix("-start")
        if kind not in KINDS:
            continue
        arrays = one.arrays
        # An asynchronous start returns its operand, its result and perhaps semaphores.
        if kind != one.operation and kind != "all-reduce":
            arrays = [max(arrays, key=lambda array: array[1])]
        size = sum(bytes for _, bytes in arrays)
        if kind == "reduce-scatter":
            size *= _group_size(one.arguments)
        found += [Collective(kind, tuple(name for name, _ in arrays), size)] * one.times
    return found


def halo_bytes(config: MedNeXtConfig, layout: Layout, samples: int) -> int:
    """The least bytes that an inner device receives for the halos of a step on its `samples`, forward and back.

    Each depthwise convolution at a split level needs its halo once; each gradient goes back the same way.
    """
    itemsize = 2 if config.dtype == "bfloat16" else 4
    channels, total = config.stage_channels, 0
    for stage in range(STAGES):
        level = min(stage, STAGES - 1 - stage)
        k = config.encoder_kernel_size if stage < LEVELS else config.decoder_kernel_size
        total += config.block_counts[stage] * channels[stage] * _planes(layout, level, conv_halo(k))
        if stage < LEVELS:
            total += channels[stage] * _planes(layout, level, down_halo(k))
        elif level > 0:
            total += channels[stage] * _planes(layout, level, up_halo(k))
    return 2 * samples * itemsize * total


def table(found: Iterable[Collective], least: int) -> str:
    """One line a kind: count, bytes, the largest."""
    found = list(found)
    lines = [f"{'collective':20} {'count':>6} {'MiB':>10}  largest"]
    for kind in KINDS:
        some = [c for c in found if c.kind == kind]
        if some:
            largest = max(some, key=lambda c: c.bytes)
            shown = " ".join(largest.shapes[:3]) + (" ..." if len(largest.shapes) > 3 else "")
            lines.append(f"{kind:20} {len(some):6} {sum(c.bytes for c in some) / 2**20:10.3f}  {shown}")
    sent = sum(c.bytes for c in found if c.kind == "collective-permute")
    ratio = f"{sent / least:.2f} x" if least else "none needed"
    lines.append(f"{'halos, least':20} {'':6} {least / 2**20:10.3f}  permuted: {ratio}")
    return "\n".join(lines)


def _planes(layout: Layout, level: int, halo: tuple[int, int]) -> int:
    """Voxels of the halo of one part of a level."""
    split = layout.split(level)
    part = [
        (n >> level) // (size if name else 1) for n, name, size in zip(layout.extents, split, layout.sizes, strict=True)
    ]
    total = 0
    for axis, name in enumerate(split):
        if name is not None:
            total += sum(halo) * math.prod(part) // part[axis]
            part[axis] += sum(halo)  # the corners: the next axis's planes are larger by this one's halo
    return total


def _group_size(line: str) -> int:
    explicit = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
    if explicit:
        return len(explicit[1].split(","))
    listed = re.search(r"replica_groups=\[\d+,(\d+)\]", line)
    return int(listed[1]) if listed else 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="FILE.py or FILE.py:ARGUMENT")
    parser.add_argument("--mesh", type=integers("1,8,1"), default=(1, 8, 1), help="devices along data, space, height")
    arguments, overrides = parser.parse_known_args()

    from mednext_jax.ops.local import LocalOps
    from mednext_jax.parallel.mesh import make_mesh
    from mednext_jax.parallel.network import layout_of
    from mednext_jax.train.configuration import TrainConfig
    from mednext_jax.train.recipes import load_config
    from tools.programs import lower_train_step, network_of

    config = TrainConfig.of(load_config(arguments.config, ["--config.data=none", *overrides]))
    mesh = make_mesh(*arguments.mesh)
    network = network_of(config)
    if mesh.devices.flat[0].platform == "cpu":  # exchanges half precision as float32
        network = dataclasses.replace(network, dtype="float32")
    least = halo_bytes(network, layout_of(network, mesh, config.patch_size), config.batch_size // mesh.shape["data"])
    # The form with the shortest programs; which one a device runs does not change what is sent.
    compiled = lower_train_step(config, mesh, LocalOps(platform="gpu")).compile()
    print(table(collectives(instructions(compiled.as_text())), least))


if __name__ == "__main__":
    main()
