"""Compiled kernels kept on disk beside XLA's programs: jax-triton compiles each of them anew in every process.

XLA's cache cannot help, because it is asked with a program that already holds the compiled kernels.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import jax

from mednext_jax.io.atomic import atomic_file


def keep_compiled_kernels(triton_lib: Any) -> None:
    """Make jax-triton's `triton_lib` look in JAX's compilation cache folder before it compiles, and write there.

    Without such a folder, or with one that is not on a disk, nothing is kept. A kernel is known by Triton's hash of
    its source and all that it calls, its constants and options, Triton's version and the GPU's generation.
    """
    import triton

    settings: Any = jax.config
    calls = triton_lib.triton_kernel_call_lib
    compile_kernel, new_kernel = triton_lib.get_or_create_triton_kernel, calls.TritonKernel
    made: list[tuple[Any, ...]] = []

    def noted_kernel(*arguments: Any) -> Any:
        # Every launch looks its kernel up by all its text: without the intermediate form half as much.
        *front, _, capability = arguments
        made.append((*front, "", capability))
        return new_kernel(*made[-1])

    def compile_once(backend: Any, platform: str, kernel: Any, *arguments: Any, **options: Any) -> tuple[Any, Any]:
        root = settings.jax_compilation_cache_dir
        if not root or "://" in root or platform != "cuda":
            return compile_kernel(backend, platform, kernel, *arguments, **options)
        device = options["compute_capability"] or calls.get_compute_capability(0)
        said = repr((triton.__version__, device, kernel.cache_key, arguments, sorted(options.items())))
        path = Path(root) / "triton" / f"{hashlib.sha256(said.encode()).hexdigest()}.json"
        try:
            kept = json.loads(path.read_text())
            return new_kernel(*kept["kernel"]), {(i,): value for i, value in enumerate(kept["arguments"])}
        except (OSError, ValueError, TypeError, KeyError):  # not there yet, or damaged
            made.clear()
        compiled, attributes = compile_kernel(backend, platform, kernel, *arguments, **options)
        if made and list(attributes) == [(i,) for i in range(len(attributes))]:
            kept = {"kernel": made[-1], "arguments": list(attributes.values())}
            # A full or read-only disk only costs the next start its time.
            with contextlib.suppress(OSError), atomic_file(path) as new:
                new.write_text(json.dumps(kept))
        return compiled, attributes

    calls.TritonKernel, triton_lib.get_or_create_triton_kernel = noted_kernel, compile_once
