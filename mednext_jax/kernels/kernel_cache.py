"""Compiled kernels kept on disk beside XLA's programs: jax-triton compiles each of them anew in every process.

XLA's cache cannot help, because it is asked with a program that already holds the compiled kernels.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import jax

from mednext_jax.kernels.kept import read_kept, write_kept


def keep_compiled_kernels(triton_lib: Any) -> None:
    """Make jax-triton's `triton_lib` look in JAX's compilation cache folder before it compiles, and write there.

    Without such a folder, or with one that is not on a disk, nothing is kept. A kernel is known by Triton's hash of
    its source and all that it calls, its constants and options, Triton's version and the GPU's generation. A file that
    was damaged, or written by an earlier release without a checksum, is compiled and written again.
    """
    import triton

    settings: Any = jax.config
    calls = triton_lib.triton_kernel_call_lib
    compile_kernel = triton_lib.get_or_create_triton_kernel
    new_kernel, new_call = calls.TritonKernel, calls.TritonKernelCall
    made: list[tuple[Any, ...]] = []

    def noted_kernel(*arguments: Any) -> Any:
        # Every launch looks its kernel up by all its text: without the intermediate form half as much.
        *front, _, capability = arguments
        made.append((*front, "", capability))
        return new_kernel(*made[-1])

    def call_of(kernel: Any, *arguments: Any) -> Any:
        if isinstance(kernel, _Assembled):
            return _AssembledCall(new_call(kernel.kernel, *arguments), kernel.message)
        return new_call(kernel, *arguments)

    def compile_once(new_backend: Any, platform: str, kernel: Any, *arguments: Any, **options: Any) -> tuple[Any, Any]:
        root = settings.jax_compilation_cache_dir
        if not root or "://" in root or platform != "cuda":
            return compile_kernel(new_backend, platform, kernel, *arguments, **options)
        capability = options["compute_capability"] or calls.get_compute_capability(0)
        said = repr((triton.__version__, capability, kernel.cache_key, arguments, sorted(options.items())))
        path = Path(root) / "triton" / f"{hashlib.sha256(said.encode()).hexdigest()}.json"
        kept = read_kept(path)  # a GPU would run whatever a damaged file holds
        if kept is not None:
            assembled = _Assembled.of(
                new_kernel(*kept["kernel"]), kept["kernel"], base64.b64decode(kept["machine_code"])
            )
            return assembled, {(i,): value for i, value in enumerate(kept["arguments"])}
        made.clear()
        with triton.knobs.compilation.scope():
            triton.knobs.compilation.disable_line_info = True  # three quarters of the machine code's size
            compiled, attributes = compile_kernel(new_backend, platform, kernel, *arguments, **options)
            if not made or list(attributes) != [(i,) for i in range(len(attributes))]:
                return compiled, attributes
            backend = new_backend(0, capability)
            how = backend.parse_options({name: options[name] for name in ("num_warps", "enable_fp_fusion")})
            machine_code = backend.make_cubin(made[-1][4], {}, how, capability)
        kept = {
            "kernel": made[-1],
            "arguments": list(attributes.values()),
            "machine_code": base64.b64encode(machine_code).decode(),
        }
        write_kept(path, kept)
        return _Assembled.of(compiled, made[-1], machine_code), attributes

    calls.TritonKernel, calls.TritonKernelCall = noted_kernel, call_of
    triton_lib.get_or_create_triton_kernel = compile_once


@dataclasses.dataclass(frozen=True)
class _Assembled:
    """A kernel with its machine code, which jaxlib would have ptxas make of the PTX anew in every process.

    message: the part kernel_call.kernel.module_image of jaxlib's TritonAnyKernelCall (jaxlib/gpu/triton.proto). A
    jaxlib from before August 2026 skips it and assembles the PTX.
    """

    kernel: Any
    message: bytes

    @classmethod
    def of(cls, kernel: Any, made_of: Any, machine_code: bytes) -> _Assembled:
        name, _, _, shared_bytes, *_ = made_of
        image = _field(1, machine_code) + _field(2, name.encode()) + _varint(3 << 3) + _varint(shared_bytes)
        return cls(kernel, _field(1, _field(1, _field(11, image))))


@dataclasses.dataclass(frozen=True)
class _AssembledCall:
    """A launch of an `_Assembled` kernel, of which jax-triton asks only its message."""

    call: Any
    message: bytes

    def to_proto(self, *arguments: Any) -> bytes:
        # Protobuf merges messages that are written one after the other.
        return self.call.to_proto(*arguments) + self.message


def _field(number: int, content: bytes) -> bytes:
    """A field of a protobuf message: bytes, text, or a message."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    low = [(value >> shift) & 0x7F for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([*(part | 0x80 for part in low[:-1]), low[-1]])
