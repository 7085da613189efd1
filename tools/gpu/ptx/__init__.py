"""Run a compiled kernel's PTX on NumPy arrays: what a Hopper would be told to do, where there is none.

Triton's own interpreter runs a kernel's source, in float32, one program after another. This runs the instructions that
Triton made of it: bfloat16 tensor-core fragments, swizzled shared memory, asynchronous copies, barriers. It also looks
out for what would go wrong on a GPU on some days only:

* global memory is read within an input and written within an output, aligned, and by one block of the grid only;
* shared memory that one warp wrote is read or written by another only past a barrier;
* what nobody wrote reads as not a number; an asynchronous copy arrives when it is waited for, and not before;
* a tensor-core product's operands in shared memory stay as they are until it is waited for.

Not modelled: the rounding of the approximate functions (tanh, exp2, division), fused multiply-add's single rounding,
the order of a tensor core's sums, fences between proxies, ptxas, and races within a warp. Source: NVIDIA's "PTX ISA"
8.7, for the places of fragments and of wgmma's operands its chapters on mma, ldmatrix and wgmma.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tools.gpu.ptx import arithmetic, matrices, transfers
from tools.gpu.ptx.memory import Array, Global
from tools.gpu.ptx.program import PTXError, parse
from tools.gpu.ptx.warps import Blocks

__all__ = ["PTXError", "run"]

_HANDLERS = {**arithmetic.HANDLERS, **transfers.HANDLERS, **matrices.HANDLERS}


def run(ptx: str, grid: Sequence[int], inputs: Sequence[Array], outputs: Sequence[Array], shared_bytes: int) -> None:
    """Run a kernel on `grid` = (x, y, z), whose pointers are those of `inputs`, then `outputs`, which it fills.

    bfloat16 arrays may be of any two-byte dtype. Blocks of the grid run side by side, as many as fit 2^17 threads.
    Raises PTXError if the kernel breaks one of the rules above, or holds an instruction not known here.
    """
    program = parse(ptx)
    memory = Global(inputs, outputs)
    grid = (*grid, 1, 1)[:3]
    blocks = math.prod(grid)
    together = max(1, 2**17 // program.threads)
    for first in range(0, blocks, together):
        some = np.arange(first, min(first + together, blocks))
        Blocks(program, _HANDLERS, memory, some, grid, shared_bytes).run()
    memory.copy_outputs(outputs)
