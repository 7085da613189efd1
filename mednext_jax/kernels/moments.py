# mypy: ignore-errors
# The function below is Triton, which shares Python's syntax but not its types.
"""The instance norm's scale and shift from the moments that a convolution's programs left behind."""

import triton
import triton.language as tl


@triton.jit
def fold_kernel(
    partial,  # (n, C, P, 3) float32: count, mean, sum of squares about that mean
    gamma,  # (C,) float32
    beta,  # (C,) float32
    scale,  # (n, C) float32, as are the next four
    shift,
    mean,
    deviation,
    voxels,
    C: tl.constexpr,
    P: tl.constexpr,
    BP: tl.constexpr,  # P, up to a power of two
    EPSILON: tl.constexpr,
):
    """Merged in a fixed order (Chan et al. 1979), so a run repeats bit for bit. Grid (C, n)."""
    c = tl.program_id(0)
    at = tl.program_id(1) * C + c
    i = tl.arange(0, BP)
    row = partial + at * (3 * P) + i * 3
    count = tl.load(row, mask=i < P, other=0.0)
    part = tl.load(row + 1, mask=i < P, other=0.0)
    squares = tl.load(row + 2, mask=i < P, other=0.0)
    total = tl.sum(count)
    whole = tl.sum(count * part) / total
    apart = part - whole
    variance = tl.sum(squares + count * apart * apart) / total
    rise = 1.0 / tl.sqrt(variance + EPSILON)
    a = tl.load(gamma + c) * rise
    tl.store(scale + at, a)
    tl.store(shift + at, tl.load(beta + c) - whole * a)
    tl.store(mean + at, whole)
    tl.store(deviation + at, rise)
    tl.store(voxels + at, total)
