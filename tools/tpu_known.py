"""Programs whose time on a TPU one can count: what its two clocks (`tools.tpu_schedule`) say of them.

The larger of FLOPs / peak and bytes / (0.9 x bandwidth); both are too large for the fast memory, so every byte moves
once. The sums of squares and the doubled values are the same work in bfloat16 and float32 but for the bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.sharding import SingleDeviceSharding

from tools.tpu_schedule import CHIPS, REACHED, time_of

_ROWS, _LANES = 2**20, 128  # 256 MiB of bfloat16
_SIZE = 8192  # of a square matrix


def _doubled(x: jax.Array) -> jax.Array:
    return (2 * x).astype(x.dtype)


def _squares(x: jax.Array) -> jax.Array:
    return jnp.square(x.astype(jnp.float32)).sum(0)


def _doubled_by_pallas(x: jax.Array) -> jax.Array:
    def kernel(source: Any, result: Any) -> None:
        result[...] = 2 * source[...]

    block = pl.BlockSpec((4096, _LANES), lambda i: (i, 0))
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return pl.pallas_call(kernel, shape, grid=(_ROWS // 4096,), in_specs=[block], out_specs=block, name="doubled")(x)


# Name -> (function, shapes of its operands, type, FLOPs, bytes).
PROGRAMS: dict[str, tuple[Callable[..., jax.Array], list[tuple[int, ...]], Any, float, float]] = {
    "matrix product": (jnp.matmul, [(_SIZE, _SIZE)] * 2, jnp.bfloat16, 2 * _SIZE**3, 6 * _SIZE**2),
    "copy, bfloat16": (_doubled, [(_ROWS, _LANES)], jnp.bfloat16, 0, 4 * _ROWS * _LANES),
    "copy, float32": (_doubled, [(_ROWS, _LANES)], jnp.float32, 0, 8 * _ROWS * _LANES),
    "reduction, bfloat16": (_squares, [(_ROWS, _LANES)], jnp.bfloat16, 0, 2 * _ROWS * _LANES),
    "copy by Pallas": (_doubled_by_pallas, [(_ROWS, _LANES)], jnp.bfloat16, 0, 4 * _ROWS * _LANES),
}


def compare(device: Any, dump: Path, *, as_json: bool) -> int:
    """Print, for each of PROGRAMS on one `device`, what was counted and what both clocks say; returns 0."""
    chip, place = CHIPS[device.device_kind], SingleDeviceSharding(device)
    rows = []
    for name, (function, shapes, dtype, flops, moved) in PROGRAMS.items():
        operands = [jax.ShapeDtypeStruct(shape, dtype, sharding=place) for shape in shapes]
        time = time_of(jax.jit(function).lower(*operands).compile(), dump, device.device_kind)
        counted = max(flops / chip.peak, moved / (REACHED * chip.bandwidth))
        rows.append(
            {
                "program": name,
                "counted_seconds": counted,
                "schedule_seconds": time.seconds,
                "estimated_seconds": time.estimated_seconds,
            }
        )
    if as_json:
        print(json.dumps(rows, indent=2))
        return 0
    print(f"| {device.device_kind} | counted (ms) | schedule (ms) | estimate (ms) |\n| --- | --- | --- | --- |")
    for row in rows:
        times = (row[f"{kind}_seconds"] for kind in ("counted", "schedule", "estimated"))
        print(f"| {row['program']} | {' | '.join(f'{1e3 * seconds:.3f}' for seconds in times)} |")
    return 0
