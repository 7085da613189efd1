"""Every other voxel on lines of lanes against slices and padding of plain volumes, bit for bit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl

from mednext_jax.kernels.mosaic import every_other
from mednext_jax.kernels.mosaic.layout import Lines, from_lanes, inside, to_lanes

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    "extents, odd", [((1, 3, 64), True), ((2, 9, 5), False), ((1, 1, 1), True), ((1, 17, 33), True)]
)
def test_voxels_are_taken_and_put_back(
    extents: tuple[int, int, int], odd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pl, "pallas_call", functools.partial(pl.pallas_call, interpret=True))
    coarse, fine = Lines(*extents), Lines(*(2 * n for n in extents))
    x = jax.random.normal(jax.random.key(0), (2, fine.d, fine.h, fine.w, 3)).astype(jnp.bfloat16)
    expected = x[:, odd::2, odd::2, odd::2]
    taken = every_other.take(to_lanes(x), coarse, odd=odd)
    np.testing.assert_array_equal(from_lanes(taken, coarse), expected)
    assert not np.any(np.asarray(taken) * ~inside(coarse)[:, None])
    put = every_other.put(taken, coarse, odd=odd)
    around = [(0, 0, 0), *[(int(odd), int(not odd), 1)] * 3, (0, 0, 0)]
    padded = jax.lax.pad(expected, jnp.zeros((), x.dtype), around)
    np.testing.assert_array_equal(put, to_lanes(padded))
