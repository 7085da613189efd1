"""The one layout of activations inside the TPU kernels: (n, d, groups, c, lanes), voxels in the lanes.

A line of lanes holds `rows` whole rows of w side by side, so that short rows fill it too; channels lie in the sublanes
above it. A row takes `width` lanes: w, up to a power of two (above 128 to a multiple of 128). h is padded to whole
groups of `rows`. No row crosses a line, so halos in d and h are offsets, and products over channels need no transposes.

    lanes of a line:  row 0 of the group: w voxels, padding | row 1: w voxels, padding | ...

Padding holds zeros wherever an activation or its gradient is handed over: whoever writes one writes zeros there
(`inside`), and whoever sums over voxels leaves out what a bias or an affine map has put there.
Activations are bfloat16; sublanes 2i and 2i + 1 share a 32-bit word, so `ref.bitcast(jnp.uint32)` in a kernel is free.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax import Array

LANES = 128
VMEM_BYTES = 100 * 2**20  # the limit of a kernel; a chip that has less takes what it has
STEP_BYTES = 28 * 2**20  # what a step's activations may take of VMEM, which is 64 MiB on the smallest chip


@dataclasses.dataclass(frozen=True)
class Lines:
    """How a volume of extents d, h, w lies in lines of lanes."""

    d: int
    h: int
    w: int

    @property
    def width(self) -> int:
        """Lanes of one row of w with its padding."""
        return 1 << (self.w - 1).bit_length() if self.w <= LANES else -(-self.w // LANES) * LANES

    @property
    def rows(self) -> int:
        """Rows of w in one line."""
        return max(1, LANES // self.width)

    @property
    def lanes(self) -> int:
        """Lanes of one line, a multiple of 128."""
        return self.rows * self.width

    @property
    def groups(self) -> int:
        """Lines of one plane of d."""
        return -(-self.h // self.rows)

    @property
    def voxels(self) -> int:
        """Voxels of the volume, without padding."""
        return self.d * self.h * self.w

    @property
    def is_full(self) -> bool:
        """Whether every lane holds a voxel."""
        return self.width == self.w and self.groups * self.rows == self.h

    def shape(self, n: int, c: int) -> tuple[int, int, int, int, int]:
        """The shape of activations with n samples and c channels."""
        return n, self.d, self.groups, c, self.lanes


def lines_of(x: Array) -> Lines:
    """The lines of the extents of `x` (n, d, h, w, c)."""
    _, d, h, w, _ = x.shape
    return Lines(d, h, w)


def to_lanes(x: Array) -> Array:
    """(n, d, h, w, c) -> (n, d, groups, c, lanes), zeros in the padding."""
    lines = lines_of(x)
    n, c = x.shape[0], x.shape[-1]
    x = jnp.pad(x, ((0, 0), (0, 0), (0, lines.groups * lines.rows - lines.h), (0, lines.width - lines.w), (0, 0)))
    x = x.reshape(n, lines.d, lines.groups, lines.rows * lines.width, c)
    return jnp.swapaxes(x, 3, 4)


def from_lanes(x: Array, lines: Lines) -> Array:
    """(n, d, groups, c, lanes) -> (n, d, h, w, c); what is in the padding is dropped."""
    n, d, _, c, _ = x.shape
    x = jnp.swapaxes(x, 3, 4).reshape(n, d, lines.groups * lines.rows, lines.width, c)
    return x[:, :, : lines.h, : lines.w]


def inside(lines: Lines) -> np.ndarray:
    """Which lanes hold voxels: (groups, lanes) bool, the same in every plane of d."""
    row = np.arange(lines.groups)[:, None] * lines.rows + np.arange(lines.lanes) // lines.width
    return (row < lines.h) & (np.arange(lines.lanes) % lines.width < lines.w)
