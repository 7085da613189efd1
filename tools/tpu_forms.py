"""Forms of the depthwise convolution on a TPU, by the compiler's two clocks: why `ops.correlate` takes the banded.

    pip install "jax[tpu]"
    python -m tools.tpu_forms --level 128x32 --level 32x128 --forms banded,shifts,densified

Per form and level (extent x channels, two bfloat16 volumes, k5): the time by the compiler's schedule and by its
estimate (`tools.tpu_schedule`), temporary memory, and seconds to compile. Nothing runs. `gradients`: of input and
kernel, for the form in use. The shifts and the densified convolution are here for comparison only.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from typing import Any

from tools.aot_compile import compile_and_measure, devices_of
from tools.arguments import integers, some_of
from tools.tpu_schedule import start_dump

K = 5
LEVELS = ((128, 32), (64, 64), (32, 128), (16, 256), (8, 512))
FORMS = ("banded", "gradients", "shifts", "densified", "grouped")


def forms() -> dict[str, Callable[[Any, Any], Any]]:
    """Forms by name: (x (n, d, h, w, c), kernel (k, k, k, c)) -> the correlation."""
    import jax.numpy as jnp
    from jax import lax

    from mednext_jax.ops.correlate import correlate, kernel_gradient

    around = ((K // 2, K // 2),) * 3

    def shifts(x: Any, kernel: Any) -> Any:
        padded = jnp.pad(x, ((0, 0), *around, (0, 0)))
        total = jnp.zeros(x.shape, jnp.float32)
        for tap in itertools.product(range(K), repeat=3):
            slab = lax.dynamic_slice(padded, (0, *tap, 0), x.shape)
            total = total + (slab * kernel[tap].astype(x.dtype)).astype(jnp.float32)
        return total.astype(x.dtype)

    def densified(x: Any, kernel: Any) -> Any:
        dense = kernel.astype(x.dtype)[..., None] * jnp.eye(x.shape[-1], dtype=x.dtype)
        numbers = ("NDHWC", "DHWIO", "NDHWC")
        return lax.conv_general_dilated(x, dense, (1, 1, 1), around, dimension_numbers=numbers)

    def gradients(x: Any, kernel: Any) -> Any:
        by_input = correlate(x, kernel[::-1, ::-1, ::-1], None, 1, around, "banded")
        return by_input, kernel_gradient(x, x, (K, K, K), 1, around, "banded")

    return {
        "banded": lambda x, kernel: correlate(x, kernel, None, 1, around, "banded"),
        "gradients": gradients,
        "shifts": shifts,
        "densified": densified,
        "grouped": lambda x, kernel: correlate(x, kernel, None, 1, around, "grouped"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="v5e:2x4")
    parser.add_argument(
        "--level", type=integers("128x32", "x"), action="append", help="extent x channels; may be given several times"
    )
    parser.add_argument("--forms", type=some_of(FORMS), default=["banded", "gradients", "shifts"])
    arguments = parser.parse_args()

    dump = start_dump()
    device = devices_of(arguments.topology)[0]
    import jax
    import jax.numpy as jnp
    from jax.sharding import SingleDeviceSharding

    place, known = SingleDeviceSharding(device), forms()
    print("| level | form | schedule (ms) | estimate (ms) | temporaries (MiB) | compile (s) |\n" + "| --- " * 6 + "|")
    for level, name in itertools.product(arguments.level or LEVELS, arguments.forms):
        extent, channels = level
        x = jax.ShapeDtypeStruct((2, extent, extent, extent, channels), jnp.bfloat16, sharding=place)
        kernel = jax.ShapeDtypeStruct((K, K, K, channels), jnp.float32, sharding=place)
        row = compile_and_measure(name, jax.jit(known[name]).lower(x, kernel), device, dump)
        memory, clocks = row["temporaries"], [row.get(f"{clock}_seconds") for clock in ("schedule", "estimated")]
        missing = "does not fit" if row["fits"] is False else "-"
        cells = [
            *(f"{extent}x{channels}", name),
            *(missing if seconds is None else f"{1e3 * seconds:.2f}" for seconds in clocks),
            *("-" if memory is None else f"{memory / 2**20:.0f}", f"{row['compile_seconds']:.0f}"),
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
