"""Activations in lines of lanes: every voxel at its place, zeros around it, and back."""

import jax.numpy as jnp
import numpy as np
import pytest

from mednext_jax.kernels.mosaic import layout
from mednext_jax.kernels.mosaic.layout import Lines

pytestmark = pytest.mark.core
EXTENTS = [(2, 3, 128), (2, 4, 64), (1, 8, 32), (3, 5, 9), (2, 3, 100), (1, 2, 200), (2, 8, 8), (1, 1, 1)]


@pytest.mark.parametrize("extents", EXTENTS)
def test_every_voxel_lies_in_its_row_and_the_rest_is_zero(extents: tuple[int, int, int]) -> None:
    lines = Lines(*extents)
    x = np.arange(1, 1 + 2 * lines.voxels * 3, dtype=np.float32).reshape(2, *extents, 3)
    laid = np.asarray(layout.to_lanes(jnp.asarray(x)))
    assert laid.shape == lines.shape(2, 3)
    expected = np.zeros_like(laid)
    for z, y, column in np.ndindex(*extents):
        group, row = divmod(y, lines.rows)
        expected[:, z, group, :, row * lines.width + column] = x[:, z, y, column]
    np.testing.assert_array_equal(laid, expected)
    np.testing.assert_array_equal(layout.from_lanes(jnp.asarray(laid), lines), x)
    np.testing.assert_array_equal(layout.inside(lines), (expected != 0)[0, 0, :, 0])
    assert lines.is_full == layout.inside(lines).all()


def test_rows_fill_the_lanes() -> None:
    """At the levels of a patch of 128 voxels a line has 128 lanes, all of them voxels down to 16."""
    levels = [Lines(n, n, n) for n in (128, 64, 32, 16, 8)]
    assert [(lines.rows, lines.groups, lines.lanes) for lines in levels] == [
        *((1, 128, 128), (2, 32, 128), (4, 8, 128), (8, 2, 128), (16, 1, 128)),
    ]
    assert [lines.is_full for lines in levels] == [True, True, True, True, False]


def test_long_rows_take_whole_lines() -> None:
    lines = Lines(1, 3, 160)
    assert (lines.width, lines.rows, lines.lanes, lines.groups, lines.is_full) == (256, 1, 256, 3, False)
