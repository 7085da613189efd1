"""The one way a Triton kernel is called from JAX."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any

import jax
from jax import Array

from mednext_jax.kernels.kernel_cache import keep_compiled_kernels


def launch(
    kernel: Any,
    inputs: Sequence[Array],
    outputs: Sequence[jax.ShapeDtypeStruct],
    grid: tuple[int, ...],
    *,
    warps: int = 1,
    stages: int = 3,
    **constants: int | float,
) -> list[Array]:
    """Run `kernel(*inputs, *outputs, **constants)` on `grid` and return the outputs, whose memory starts undefined.

    jax-triton passes arrays by position, inputs before outputs, and never tells Triton that an integer argument is
    divisible by 16 (loads then become scalar): so kernels take arrays first and every extent as a constant.
    """
    if min(grid) < 1:
        raise ValueError(f"{kernel} would run on an empty grid {grid}: its outputs would stay undefined")
    return _jax_triton().triton_call(
        *inputs,
        kernel=kernel,
        out_shape=list(outputs),
        grid=grid,
        name=kernel.__name__,
        num_warps=warps,
        num_stages=stages,
        **constants,
    )


@functools.cache
def _jax_triton() -> Any:
    # Its import empties TRITON_CACHE_DIR, after which Triton's own launches in this process (torch.compile) fail.
    before = os.environ.get("TRITON_CACHE_DIR")
    import jax_triton

    if before is not None:
        os.environ["TRITON_CACHE_DIR"] = before
    elif os.environ.get("TRITON_CACHE_DIR") == "":
        del os.environ["TRITON_CACHE_DIR"]
    keep_compiled_kernels(jax_triton.triton_lib)
    return jax_triton
