"""The first thing to run on a real TPU: what its compiler's schedule says, beside what the chip takes.

    pip install "jax[tpu]"
    mednext-jax check-device                              # first: are the kernels right on this chip?
    python -m tools.tpu_on_chip --json tpu.json           # minutes; --parts known for the first of them

Runs, on one chip: the programs of known cost (`tools.tpu_known`), which tell its clock, the matrix units' cadence and
how far memory reaches its bandwidth; every block of L k5 through the kernels or, with --form xla, through XLA; the
look-ups of an augmentation that turns a patch; and the training step of two patches without augmentation. Each is
compiled, scheduled (`tools.tpu_schedule`) and timed; the table's last column is measured over schedule. Where the
device is no TPU there is no schedule, and no kernels.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.arguments import add_form, some_of
from tools.tpu_schedule import CHIPS, start_dump, time_of

PARTS = ("known", "blocks", "look-ups", "step")
HEAD = "| program | schedule (ms) | measured (ms) | measured / schedule |\n| --- | --- | --- | --- |"


def programs(parts: list[str], form: str, variant: str, extent: int) -> Iterator[tuple[str, Any, Any]]:
    """Name, what was lowered, and operands of each program in turn: two volumes whose finest extent is `extent`."""
    import jax

    from tools.programs import operations_in

    device = jax.local_devices()[0]
    ops = operations_in(form, device.platform)
    if "known" in parts:
        from tools.tpu_known import PROGRAMS

        for name, (function, shapes, dtype, _, _) in PROGRAMS.items():
            operands = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
            yield name, jax.jit(function).lower(*operands), _filled(operands)
    if "blocks" in parts:
        from tools.tpu_blocks import MODES, blocks_of, lower_block

        for name, (kind, level, _) in blocks_of(variant).items():
            for mode in MODES:
                lowered = lower_block(kind, level, mode, 2, extent, device, ops)
                yield f"{name}, {kind}, {mode}", lowered, _filled(lowered.args_info[0])
    if "look-ups" in parts:
        yield ("look-ups of a turned patch", *_turned(extent))
    if "step" in parts:
        yield (f"training step of {variant}", *_step(variant, extent, ops))


def _turned(extent: int) -> tuple[Any, Any]:
    """The augmentation's rotation of one patch."""
    import jax
    import jax.numpy as jnp

    from mednext_jax.data.augment import AugmentConfig, read_size
    from mednext_jax.data.transforms import affine, affine_matrix

    size = (extent,) * 3
    read = read_size(AugmentConfig(), size)
    matrix = affine_matrix(jnp.deg2rad(jnp.array([20.0, -10.0, 15.0])), jnp.ones(3))
    operands = (*_filled([jax.ShapeDtypeStruct((*read, 1), jnp.float32)]), jnp.ones(read, jnp.int16), matrix)
    return jax.jit(lambda image, label, matrix: affine(image, label, matrix, size, (0, 1))).lower(*operands), operands


def _step(variant: str, extent: int, ops: Any) -> tuple[Any, Any]:
    """The training step of two patches that are there already; the state comes back as the next one's."""
    from mednext_jax.model.config import MedNeXtConfig
    from tools.training_step import step_of_network

    name, kernel_size = variant.split("/")
    network = MedNeXtConfig.variant(
        name, kernel_size=int(kernel_size), deep_supervision=True, dtype="bfloat16", remat="dw"
    )
    step, state, batch = step_of_network(network, ops, extent, 2)
    return step.lower(state, batch), (state, batch)  # type: ignore[attr-defined]


def _filled(shapes: Any) -> Any:
    """Arrays of these shapes, normal numbers."""
    import jax
    import jax.numpy as jnp

    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    made = [
        jax.random.normal(key, leaf.shape, jnp.float32).astype(leaf.dtype)
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, made)


def measured_seconds(compiled: Any, operands: Any, repeats: int) -> float:
    """The least mean time of a run, in three rounds of `repeats` runs that wait only at their end.

    A first operand that the program takes the memory of is followed by its first result, as from step to step.
    """
    import jax

    first, *rest = operands
    donated = any(info.donated for info in jax.tree.leaves(compiled.args_info))

    def run(first: Any) -> tuple[Any, Any]:
        results = compiled(first, *rest)
        return (results[0], results[1:]) if donated else (first, results)

    first, results = run(first)
    jax.block_until_ready(results)
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(repeats):
            first, results = run(first)
        jax.block_until_ready((first, results))
        best = min(best, (time.perf_counter() - start) / repeats)
    return best


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=some_of(PARTS), default=list(PARTS), help=f"of {','.join(PARTS)}")
    add_form(parser)
    parser.add_argument("--variant", default="L/5", help="S, B, M or L and the size of its kernels")
    parser.add_argument("--extent", type=int, default=128, help="voxels along each axis of the patches")
    parser.add_argument("--repeats", type=int, default=20, help="runs of each program in a round, three rounds")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args(arguments)
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json: there is no folder {options.json.parent}")

    dump = start_dump()
    import jax

    kind = jax.local_devices()[0].device_kind
    if kind not in CHIPS and options.form == "kernels" and {"blocks", "step"} & set(options.parts):
        parser.error(f"{kind} runs no TPU kernels: --form xla, or --parts look-ups")
    print(f"{kind}, jax {jax.__version__}, {options.form}\n\n{HEAD}", flush=True)
    rows = []
    for name, lowered, operands in programs(options.parts, options.form, options.variant, options.extent):
        compiled = lowered.compile()
        schedule = time_of(compiled, dump, kind).seconds if kind in CHIPS else None
        measured = measured_seconds(compiled, operands, options.repeats)
        rows.append({"program": name, "schedule_seconds": schedule, "measured_seconds": measured})
        by_schedule = ("-", "-") if schedule is None else (f"{1e3 * schedule:.3f}", f"{measured / schedule:.2f}")
        print(f"| {name} | {by_schedule[0]} | {1e3 * measured:.3f} | {by_schedule[1]} |", flush=True)
    if options.json:
        about = {"device": kind, "jax": jax.__version__, "form": options.form, "extent": options.extent}
        options.json.write_text(json.dumps({**about, "programs": rows}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
