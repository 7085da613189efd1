"""Triton kernels that XLA records into CUDA graphs, whose launches cost a fraction of single ones.

jax-triton emits its kernels as custom calls of the kind that XLA cannot record. jaxlib has another entry point for the
same kernels, of the kind that it can.
"""

from __future__ import annotations

from typing import Any

import jax
from jaxlib.mlir import ir

_TARGET = "triton_kernel_call_ffi"


def emit_recordable_calls(triton_lib: Any) -> None:
    """Make jax-triton's `triton_lib` emit calls to jaxlib's other entry point, where there is one."""
    if _TARGET in triton_lib.triton_kernel_call_lib._cuda_triton.registrations():
        triton_lib.jax = _JaxWithOtherCalls()


class _JaxWithOtherCalls:
    """The module `jax` as jax-triton sees it."""

    def __getattr__(self, name: str) -> Any:
        return self if name == "ffi" else getattr(jax, name)

    @staticmethod
    def ffi_lowering(_: str, *, api_version: int, backend_config: bytes, operand_output_aliases: dict[int, int]) -> Any:
        opaque = ir.StringAttr.get(backend_config)
        config = {"opaque": opaque}
        return jax.ffi.ffi_lowering(_TARGET, backend_config=config, operand_output_aliases=operand_output_aliases)
