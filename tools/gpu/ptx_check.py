"""Check a MedNeXt's kernels as they are compiled for a GPU, on a machine without one.

    python -m tools.gpu.ptx_check --variant S --kernel-size 3 --patch 64 --only "block 32"

Every distinct block, forward and all gradients, in bfloat16 through the PTX of its kernels (`tools.gpu.ptx`), against
PyTorch in float32: the check that `tools.bench_gpu --parts check` makes on a GPU. With --small the one that every GPU
makes before it takes the kernels (`mednext_jax.kernels.self_check`), against XLA. Exits with 1 if a block is wrong.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from types import SimpleNamespace
from typing import Any
from unittest import mock

import jax
import numpy as np

from mednext_jax.kernels import launch
from mednext_jax.kernels.self_check import measure
from mednext_jax.model.config import EXTENT_MULTIPLE, MedNeXtConfig
from mednext_jax.ops.block_kind import BlockKind
from tools.gpu import ptx
from tools.gpu.cases import Case, cases
from tools.gpu.kernel_report import CAPABILITIES, HOPPER, Launch, compiled_kernel, use_tiles_of


def triton_call(*inputs: Any, kernel: Any, out_shape: Any, capability: int, **how: Any) -> Any:
    """Stand-in for jax-triton's: the kernel's PTX for `capability`, run by NumPy."""
    launched = Launch.of(kernel, (*inputs, *out_shape), how)
    compiled = compiled_kernel(launched, capability)

    def run(*arrays: Any) -> list[np.ndarray]:
        outputs = [np.empty(shape.shape, shape.dtype) for shape in out_shape]
        ptx.run(compiled.asm["ptx"], launched.grid, [np.asarray(a) for a in arrays], outputs, compiled.metadata.shared)
        return outputs

    return jax.pure_callback(run, out_shape, *inputs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="S", choices=list("SBML"))
    parser.add_argument("--kernel-size", type=int, default=3)
    parser.add_argument("--patch", type=int, nargs="+", default=[64], help="extents: one, or d h w")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="at the small shape of the check on a GPU, against XLA")
    parser.add_argument("--only", default="", help="blocks whose name contains this")
    parser.add_argument("--capability", type=int, default=HOPPER, choices=list(CAPABILITIES), help="90 is an H100's")
    options = parser.parse_args()
    use_tiles_of(options.capability)
    config = MedNeXtConfig.variant(options.variant, kernel_size=options.kernel_size)
    extents = tuple(options.patch * 3)[:3]
    if any(extent < 1 or extent % EXTENT_MULTIPLE for extent in extents):
        parser.error(f"--patch: extents are multiples of {EXTENT_MULTIPLE}, found {extents}")
    chosen: list[Any] = cases(config, extents, options.batch)
    if options.small:
        chosen = list(dict.fromkeys(kind for kind, _, _ in config.blocks()))
    chosen = [block for block in chosen if options.only in _name(block)]
    if not chosen:
        parser.error(f"--only: no block's name contains {options.only!r}; names are as 'block 32-64-32 at 64'")
    bad = 0
    instead = SimpleNamespace(triton_call=functools.partial(triton_call, capability=options.capability))
    with mock.patch.object(launch, "_jax_triton", lambda: instead):
        for block in chosen:
            start = time.perf_counter()
            good, errors = _check(block)
            bad += not good
            took = time.perf_counter() - start
            print(f"{'ok   ' if good else 'WRONG'} {_name(block):28s} {errors}  ({took:.0f} s)", flush=True)
    return 1 if bad else 0


def _name(block: Case | BlockKind) -> str:
    return block.name if isinstance(block, Case) else str(block)


def _check(block: Case | BlockKind) -> tuple[bool, str]:
    if isinstance(block, Case):
        from tools.gpu.torch_block import check

        return check(block)
    verdict = measure(block)
    name, error = verdict.worst_gradient
    return verdict.fault is None, f"output {verdict.output:.1e} gradients {error:.1e} ({name})"


if __name__ == "__main__":
    sys.exit(main())
