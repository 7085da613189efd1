"""Which tap of a depthwise kernel joins which lane to which: a sum over taps as products of lines with banded matrices.

All sums of the three depthwise convolutions and of their gradients relate coarse voxels o to fine ones i by
i = stride o + t + low for the taps t of each axis. A line of lanes holds rows of w, so for one channel, one tap along d
and two lines the relation is a matrix (coarse lanes, fine lanes) with the taps of w on its diagonals. Whole diagonals
hold one tap, so the matrix is a vector of taps, the `profile`, rolled further from lane to lane. Where several taps
share a diagonal (lines of several rows), profiles lie over each other, each under its own mask.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from mednext_jax.kernels.mosaic.layout import Lines


class Term(NamedTuple):
    """A product: in which plane of d and line of it, from an output's own on, its input lies, and its matrix."""

    plane: int
    line: int
    matrix: int


@dataclasses.dataclass(frozen=True)
class Taps:
    """A sum over the taps of k x k x k between coarse and fine voxels, from the coarse ones (`scatter`) or to them.

    low: by axis, so that coarse voxel o and tap t meet fine voxel stride o + t + low. Zeros are outside both volumes.
    """

    k: int
    stride: int
    low: tuple[int, int, int]
    coarse: Lines
    fine: Lines
    scatter: bool

    @property
    def source(self) -> Lines:
        """The lines of the input."""
        return self.coarse if self.scatter else self.fine

    @property
    def target(self) -> Lines:
        """The lines of the output."""
        return self.fine if self.scatter else self.coarse

    @property
    def ratio(self) -> int:
        """How many fine lines of a plane lie beside a coarse one."""
        return self.stride * self.coarse.rows // self.fine.rows

    @property
    def source_steps(self) -> tuple[int, int]:
        """Planes and lines of the input from one output to the next."""
        return (1, 1) if self.scatter else (self.stride, self.ratio)

    @property
    def target_steps(self) -> tuple[int, int]:
        """Planes and lines of the output that go together, one of each phase."""
        return (self.stride, self.ratio) if self.scatter else (1, 1)

    @functools.cached_property
    def offsets(self) -> tuple[int, ...]:
        """Fine lines that meet a coarse one, from ratio times its own on."""
        first = self.low[1] // self.fine.rows
        last = (self.stride * (self.coarse.rows - 1) + self.k - 1 + self.low[1]) // self.fine.rows
        return tuple(
            offset
            for offset in range(first, last + 1)
            if any(0 <= self.ratio * line + offset < self.fine.groups for line in range(self.coarse.groups))
        )

    @property
    def matrices(self) -> int:
        """How many matrices a channel has: for each tap along d one for each of `offsets`."""
        return self.k * len(self.offsets)

    @functools.cached_property
    def phases(self) -> Mapping[tuple[int, int], Sequence[Term]]:
        """The products of each phase (plane, line) of the output."""
        found: dict[tuple[int, int], list[Term]] = {}
        planes, lines = self.target_steps
        for tap in range(self.k):
            for i, offset in enumerate(self.offsets):
                d, matrix = tap + self.low[0], tap * len(self.offsets) + i
                if self.scatter:
                    phase = d % planes, offset % lines
                    term = Term(-(d // planes), -(offset // lines), matrix)
                else:
                    phase, term = (0, 0), Term(d, offset, matrix)
                found.setdefault(phase, []).append(term)
        here = [(i, j) for i in range(min(planes, self.target.d)) for j in range(min(lines, self.target.groups))]
        return {phase: found.get(phase, []) for phase in here}

    @functools.cached_property
    def _diagonals(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows apart and tap of w (-1: none) by profile and lane, (profiles, lanes, 2); and `masks`."""
        lanes = self.coarse.lanes
        row, o = np.divmod(np.arange(lanes)[:, None], self.coarse.width)
        line, i = np.divmod(np.arange(lanes)[None], self.fine.width)
        apart, tap = line - self.stride * row, i - self.stride * o - self.low[2]
        joined = (tap >= 0) & (tap < self.k) & (o < self.coarse.w) & (i < self.fine.w)
        joined &= np.isin(apart, [t + self.low[1] - at * self.fine.rows for t in range(self.k) for at in self.offsets])
        found: list[list[tuple[int, int]]] = [[] for _ in range(lanes)]
        where: list[tuple[int, int, int]] = []
        for r, c in np.argwhere(joined):
            meant = int(apart[r, c]), int(tap[r, c])
            shared = found[(c - self.stride * r) % lanes]
            if meant not in shared:
                shared.append(meant)
            where.append((shared.index(meant), r, c))
        count = max(map(len, found))
        profiles = np.full((count, lanes, 2), -1)
        for lane, shared in enumerate(found):
            for which, meant in enumerate(shared):
                profiles[which, lane] = meant
        masks = np.zeros((count, lanes, lanes), bool)
        masks[tuple(np.transpose(where))] = True
        return profiles, masks

    @property
    def masks(self) -> np.ndarray:
        """Where each profile holds, (profiles, coarse lanes, fine lanes) bool."""
        return self._diagonals[1]

    @functools.cached_property
    def _taps(self) -> np.ndarray:
        """The tap (h, w) as one number on each lane of each profile (-1: none), (offsets, profiles, lanes)."""
        profiles = self._diagonals[0]
        rows = np.array(self.offsets)[:, None, None] * self.fine.rows + profiles[..., 0] - self.low[1]
        known = (profiles[..., 1] >= 0) & (rows >= 0) & (rows < self.k)
        return np.where(known, rows * self.k + profiles[..., 1], -1)

    def profiles(self, kernel: Array) -> Array:
        """`kernel` (k, k, k, c) along the matrices' diagonals: (c, matrices, profiles, lanes) float32."""
        taps = kernel.astype(jnp.float32).reshape(self.k, self.k * self.k, -1)
        rolled = jnp.where((self._taps >= 0)[None, ..., None], taps[:, self._taps], 0)
        return jnp.moveaxis(rolled.reshape(self.matrices, *rolled.shape[2:]), -1, 0)

    def kernel_gradient(self, profiles: Array) -> Array:
        """The transpose of `profiles`: (c, matrices, profiles, lanes) -> (k, k, k, c) float32."""
        spread = (self._taps[..., None] == np.arange(self.k * self.k)).reshape(-1, self.k * self.k)
        taps = jnp.einsum(
            "cdx,xt->dtc",
            profiles.reshape(profiles.shape[0], self.k, -1),
            jnp.asarray(spread, jnp.float32),
            precision=lax.Precision.HIGHEST,
        )
        return taps.reshape(self.k, self.k, self.k, -1)
