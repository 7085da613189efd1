"""The matrices of a sum over taps, voxel by voxel."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mednext_jax.kernels.mosaic.depthwise import taps_of
from mednext_jax.kernels.mosaic.layout import Lines
from mednext_jax.kernels.mosaic.taps import Taps
from mednext_jax.kernels.mosaic.xla_depthwise import Volumes

pytestmark = pytest.mark.core
NO_HALO = (False, False, False)


def matrices(taps: Taps, profiles: np.ndarray) -> np.ndarray:
    """Profiles (matrices, profiles, lanes) rolled along the rows: (matrices, coarse lanes, fine lanes)."""
    rows, columns = np.indices(taps.masks.shape[1:])
    return (profiles[..., (columns - taps.stride * rows) % profiles.shape[-1]] * taps.masks).sum(1)


@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize(
    "step, before",
    [
        ("conv", (2, 3, 128)),
        *[(step, extents) for step in ("conv", "down") for extents in ((4, 6, 4), (2, 8, 18), (2, 20, 64))],
        *[("up", extents) for extents in ((2, 3, 2), (1, 4, 9), (1, 10, 32), (2, 2, 64))],
    ],
)
def test_every_pair_of_voxels_meets_its_tap(step: Any, before: tuple[int, int, int], k: int) -> None:
    scale = {"conv": 1.0, "down": 0.5, "up": 2.0}[step]
    after = Lines(*(int(scale * extent) for extent in before))
    taps = taps_of(k, Volumes(step, Lines(*before), after, NO_HALO))
    kernel = np.arange(1.0, 1 + k**3).reshape(k, k, k, 1)
    found = matrices(taps, np.asarray(taps.profiles(jnp.asarray(kernel)))[0])
    terms = {term.matrix: (phase, term) for phase, some in taps.phases.items() for term in some}
    assert sorted(terms) == list(range(taps.matrices))
    meetings = 0
    for phase, term in terms.values():
        matrix = found[term.matrix]
        for m, line in np.ndindex(taps.target.d, taps.target.groups):  # the target's planes and lines
            if (m % taps.target_steps[0], line % taps.target_steps[1]) != phase:
                continue
            ends = [
                (m, m // taps.target_steps[0] * taps.source_steps[0] + term.plane),
                (line, line // taps.target_steps[1] * taps.source_steps[1] + term.line),
            ]
            (out_d, in_d), (out_line, in_line) = ends
            if not (0 <= in_d < taps.source.d and 0 <= in_line < taps.source.groups):
                continue
            d, lines = ((in_d, out_d), (in_line, out_line)) if taps.scatter else ((out_d, in_d), (out_line, in_line))
            for r, column in np.argwhere(matrix):
                o = d[0], lines[0] * taps.coarse.rows + r // taps.coarse.width, r % taps.coarse.width
                i = d[1], lines[1] * taps.fine.rows + column // taps.fine.width, column % taps.fine.width
                if o[1] >= taps.coarse.h or i[1] >= taps.fine.h:
                    continue
                tap = tuple(at - taps.stride * of - low for at, of, low in zip(i, o, taps.low, strict=True))
                assert matrix[r, column] == kernel[tap][0]
                meetings += 1
    assert meetings == expected_meetings(taps)


def expected_meetings(taps: Taps) -> int:
    """How many pairs of voxels of both volumes share a tap."""
    count = 1
    for coarse, fine, low in zip(
        (taps.coarse.d, taps.coarse.h, taps.coarse.w), (taps.fine.d, taps.fine.h, taps.fine.w), taps.low, strict=True
    ):
        tap = np.arange(fine) - taps.stride * np.arange(coarse)[:, None] - low
        count *= int(((tap >= 0) & (tap < taps.k)).sum())
    return count


def test_kernel_gradient_is_the_transpose() -> None:
    taps = taps_of(3, Volumes("down", Lines(2, 6, 8), Lines(1, 3, 4), NO_HALO))
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 3, 2))
    profiles, pull = jax.vjp(taps.profiles, kernel)
    back = jax.random.normal(jax.random.key(1), profiles.shape)
    np.testing.assert_allclose(taps.kernel_gradient(back), pull(back)[0], atol=1e-5)
