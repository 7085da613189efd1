"""Every kind of block of a network on a TPU, by both clocks of `tools.tpu_schedule`, beside the least it can take.

    pip install "jax[tpu]"
    python -m tools.tpu_blocks --topology v5e:2x4 --blocks same0,up0
    python -m tools.tpu_blocks --variant L/5 --mode forward --form xla

Blocks are named by what they do to the extents (same, down, up) and the level of the finer side, 0 the finest. Each is
compiled alone, in bfloat16 as it is trained (depthwise outputs kept, the rest recomputed), on whole volumes. Floor: the
larger of bytes / bandwidth, where each activation moves once for every use that cannot share one, and of the products
that are not with zeros / peak. Nothing runs.
"""

from __future__ import annotations

import argparse
import collections
import math
import time
from typing import Any

from mednext_jax.errors import is_out_of_memory
from tools.aot_compile import devices_of
from tools.arguments import add_form, some_of
from tools.tpu_schedule import CHIPS, Chip, start_dump, summary, table, time_of

MODES = ("forward", "train")


def blocks_of(variant: str) -> dict[str, tuple[Any, int, int]]:
    """Name -> (kind, level of the finer side, how many the network has) of a variant like 'L/5'."""
    from mednext_jax.model.config import MedNeXtConfig

    name, kernel_size = variant.split("/")
    found: dict[str, tuple[Any, int, int]] = {}
    counts: collections.Counter[str] = collections.Counter()
    for kind, level, count in MedNeXtConfig.variant(name, kernel_size=int(kernel_size)).blocks():
        fine = level - 1 if kind.block == "up" else level
        label = f"{'same' if kind.block == 'block' else kind.block}{fine}"
        counts[label] += count
        found[label] = (kind, fine, counts[label])
    return found


def floor_seconds(kind: Any, level: int, mode: str, batch: int, extent: int, chip: Chip) -> float:
    """The least time of a block on `batch` volumes whose finest extent is `extent`."""
    fine = batch * (extent >> level) ** 3
    coarse = fine // 8
    voxels = {"block": fine, "down": coarse, "up": fine}[kind.block]  # of norm and MLP
    taps = kind.kernel_size**3 // (8 if kind.block == "up" else 1)
    products = {  # per voxel
        "forward": taps * kind.channels + kind.hidden * (kind.channels + kind.out_channels),
        "train": 3 * taps * kind.channels + 4 * kind.hidden * (kind.channels + kind.out_channels),
    }[mode]
    # x into the depthwise sum, which is written; that, x (and the skip) into the MLP, which is written. Backward: the
    # first and the gradient of the second into the MLP; both and x into the depthwise gradients, which are written.
    x, y = {
        "block": (fine * kind.channels, fine * kind.out_channels),
        "down": (fine * kind.channels, coarse * kind.out_channels),
        "up": (coarse * kind.channels, fine * kind.out_channels),
    }[kind.block]
    u = voxels * kind.channels
    beside = {"block": x, "down": x // 8, "up": x + y}[kind.block]
    moved = x + u + u + beside + y
    if mode == "train":
        moved += (u + y + u) + (u + u + y + x + x)
    return max(2 * moved / chip.bandwidth, 2 * voxels * products / chip.peak)


def lower_block(kind: Any, level: int, mode: str, batch: int, extent: int, device: Any, ops: Any) -> Any:
    """One block, lowered for `device`: forward, or its output and all gradients with recomputation.

    Activations come and go as they lie between two blocks over `ops`.
    """
    import jax
    import jax.numpy as jnp
    from jax.sharding import SingleDeviceSharding

    from mednext_jax.model.blocks import MedNeXtBlock, MedNeXtDownBlock, MedNeXtUpBlock

    place = SingleDeviceSharding(device)
    make = {"block": MedNeXtBlock, "down": MedNeXtDownBlock, "up": MedNeXtUpBlock}[kind.block]
    block = make(kind.channels, kind.out_channels, kind.hidden // kind.channels, kind.kernel_size, ops=ops)
    finer, coarser = extent >> level, extent >> level + 1

    def array(extent: int, channels: int, dtype: Any = jnp.bfloat16) -> Any:
        return jax.ShapeDtypeStruct((batch, extent, extent, extent, channels), dtype)

    inputs = {
        "block": [array(finer, kind.channels)],
        "down": [array(finer, kind.channels)],
        "up": [array(coarser, kind.channels), array(finer, kind.out_channels)],
    }[kind.block]

    def apply(params: Any, *x: Any) -> Any:
        return block.apply({"params": params}, *x)

    # Parameters do not depend on the layout of activations.
    plain = make(kind.channels, kind.out_channels, kind.hidden // kind.channels, kind.kernel_size)
    params = jax.eval_shape(lambda: plain.init(jax.random.key(0), *(jnp.zeros(x.shape, x.dtype) for x in inputs)))
    params, inputs = params["params"], [jax.eval_shape(ops.enter, x) for x in inputs]
    kept = jax.checkpoint(apply, policy=jax.checkpoint_policies.save_only_these_names("halo", "dw"))

    def train(params: Any, gradient: Any, *x: Any) -> Any:
        y, transpose = jax.vjp(kept, params, *x)
        return y, transpose(gradient)

    def placed(tree: Any) -> Any:
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), tree)

    if mode == "forward":
        return jax.jit(apply).lower(*placed((params, *inputs)))
    gradient = jax.eval_shape(apply, params, *inputs)
    return jax.jit(train).lower(*placed((params, gradient, *inputs)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="v5e:2x4", help="a TPU's, for example v5e:2x4, v5p:2x2x2, v6e:2x4")
    parser.add_argument("--variant", default="L/5", help="S, B, M or L and the size of its kernels")
    parser.add_argument("--blocks", help="same0, down1, up2, ...; all of the network's by default")
    parser.add_argument("--mode", type=some_of(MODES), default=["train"])
    parser.add_argument("--batch", type=int, default=2, help="volumes a chip")
    add_form(parser)
    parser.add_argument("--extent", type=int, default=128, help="voxels along each axis of the finest level")
    parser.add_argument("--top", type=int, default=0, help="show so many of each block's slowest kernels")
    arguments = parser.parse_args()
    known = blocks_of(arguments.variant)
    wanted = arguments.blocks.split(",") if arguments.blocks else list(known)
    if unknown := [name for name in wanted if name not in known]:
        parser.error(f"--blocks: no {', '.join(unknown)}; there are {', '.join(known)}")

    dump = start_dump()
    device = devices_of(arguments.topology)[0]
    from tools.programs import operations_in

    ops = operations_in(arguments.form, device.platform)
    chip = CHIPS[device.device_kind]
    print(
        "| block | times | mode | schedule (ms) | estimate (ms) | floor (ms) | temporaries (MiB) | compile (s) |\n"
        + "| --- " * 8
        + "|"
    )
    sums = dict.fromkeys(arguments.mode, 0.0)
    for name in wanted:
        kind, level, count = known[name]
        for mode in arguments.mode:
            start = time.monotonic()
            lowered = lower_block(kind, level, mode, arguments.batch, arguments.extent, device, ops)
            floor = floor_seconds(kind, level, mode, arguments.batch, arguments.extent, chip)
            head = f"| {name}, {kind} | {count} | {mode}"
            try:
                compiled = lowered.compile()
            except Exception as error:  # the compiler's own error type differs between backends
                if not is_out_of_memory(error):
                    raise
                print(
                    f"{head} | does not fit | - | {1e3 * floor:.2f} | - | {time.monotonic() - start:.0f} |", flush=True
                )
                sums[mode] = math.nan
                continue
            took, memory = time.monotonic() - start, compiled.memory_analysis().temp_size_in_bytes
            both = time_of(compiled, dump, device.device_kind)
            sums[mode] += count * both.seconds
            numbers = (1e3 * both.seconds, 1e3 * both.estimated_seconds, 1e3 * floor)
            shown = " | ".join(f"{number:.2f}" for number in numbers)
            print(f"{head} | {shown} | {memory / 2**20:.0f} | {took:.0f} |", flush=True)
            if arguments.top:
                print(f"\n{table(both, arguments.top)}\n{summary(both)}\n", flush=True)
    for mode, total in sums.items():
        print(f"{mode}, all of these blocks: {1e3 * total:.1f} ms by schedule on a {device.device_kind}")


if __name__ == "__main__":
    main()
