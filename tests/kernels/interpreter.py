"""Triton's interpreter in place of a GPU: kernels run on NumPy arrays, in float32, as their source says.

Triton decides when a kernel is defined whether it will be compiled or interpreted, so TRITON_INTERPRET=1 must be in the
environment before `mednext_jax.kernels` is imported.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import triton
import triton.language as tl

_ONE_AT_A_TIME = threading.Lock()  # Triton keeps the running program's index in a global


@contextmanager
def interpreted_kernels() -> Iterator[None]:
    """The kernels run in the interpreter, and blocks in float32 are theirs: bfloat16's rounding would hide errors."""
    from mednext_jax.kernels import channels_first, launch, mlp

    instead = SimpleNamespace(triton_call=triton_call)
    with (
        mock.patch.object(launch, "_jax_triton", lambda: instead),
        mock.patch.object(channels_first, "COMPUTE_TYPE", jnp.float32),
        mock.patch.object(mlp, "tanh", tanh),
    ):
        yield


@triton.jit
def tanh(x):
    """In place of a GPU's instruction."""
    return 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)


def triton_call(
    *inputs: Any,
    kernel: Any,
    out_shape: Sequence[jax.ShapeDtypeStruct],
    grid: tuple[int, ...],
    name: str,
    num_warps: int,
    num_stages: int,
    **constants: Any,
) -> Any:
    """In place of jax-triton's. Warps and stages only concern a GPU."""
    return jax.pure_callback(_run(kernel, out_shape, grid, constants), list(out_shape), *inputs)


def _run(
    kernel: Any, outputs: Sequence[jax.ShapeDtypeStruct], grid: tuple[int, ...], constants: dict[str, Any]
) -> Callable[..., list[np.ndarray]]:
    def run(*inputs: jax.Array) -> list[np.ndarray]:
        import torch

        tensors = [torch.from_numpy(np.array(x)) for x in inputs]
        # Memory that a kernel forgets to write must show in a test.
        results = [np.full(o.shape, np.nan, o.dtype) for o in outputs]
        with _ONE_AT_A_TIME:
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
