"""The one way a Triton kernel is called from JAX."""

from __future__ import annotations

import functools
import math
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

from mednext_jax.kernels.kernel_cache import keep_compiled_kernels

# Triton decides when a kernel is defined whether it will be compiled or run by its CPU interpreter.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_INTERPRETER = threading.Lock()  # it keeps the running program's index in a global


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
    if INTERPRETED:
        return jax.pure_callback(_interpreter(kernel, outputs, grid, constants), list(outputs), *inputs)
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


def _interpreter(
    kernel: Any, outputs: Sequence[jax.ShapeDtypeStruct], grid: tuple[int, ...], constants: dict[str, int | float]
) -> Callable[..., list[np.ndarray]]:
    """The kernel on NumPy arrays in Triton's interpreter (float32 only; it works on PyTorch's tensors)."""

    def run(*inputs: Array) -> list[np.ndarray]:
        import torch

        tensors = [torch.from_numpy(np.array(x)) for x in inputs]
        # Memory that a kernel forgets to write must show in a test.
        results = [np.full(math.prod(o.shape), np.nan, o.dtype).reshape(o.shape) for o in outputs]
        with _INTERPRETER:
            _let_scalars_be_indices()
            kernel[grid](*tensors, *map(torch.from_numpy, results), **constants)
        return results

    return run


def _let_scalars_be_indices() -> None:
    """Triton 3.6's interpreter holds scalars as arrays of one element, which NumPy 2.4 no longer turns into an int."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor
    if getattr(patch, "scalars_are_indices", False):
        return

    def patch_lang_tensor(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    patch_lang_tensor.scalars_are_indices = True  # type: ignore[attr-defined]
    interpreter._patch_lang_tensor = patch_lang_tensor
