"""Tile starts and weights against figures measured on nnU-Net, and against the definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mednext_jax.inference import tiles
from tests.oracles import gaussian_weights

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    "size, patch, expected",
    [
        (300, 128, [0, 57, 115, 172]),  # nnU-Net 2.8.1; MONAI would give 0, 64, 128, 172
        (128, 128, [0]),
        (129, 128, [0, 1]),
        (133, 128, [0, 5]),
        (21, 8, [0, 3, 6, 10, 13]),  # steps of 3.25: 3.25, 6.5 -> 6 (half to even), 9.75, 13
    ],
)
def test_axis_starts_are_those_of_nnunet(size, patch, expected):
    assert tiles.axis_starts(size, patch, 0.5) == expected


@pytest.mark.parametrize(
    "shape, count",
    [((160, 208, 176), 12), ((208, 300, 320), 48), ((260, 311, 260), 64), ((182, 218, 182), 12), ((256,) * 3, 27)],
)
def test_tile_counts_of_common_scans(shape, count):
    starts = tiles.tile_starts(shape, (128,) * 3, 0.5)
    assert starts.shape == (count, 3)
    assert starts.dtype == np.int32
    assert (starts[0] == 0).all() and (starts[-1] == np.array(shape) - 128).all()


@given(st.integers(4, 64), st.integers(0, 200), st.sampled_from([0.25, 0.5, 0.75, 1.0]))
def test_tiles_cover_the_axis_and_grow_in_number_with_it(patch, more, step):
    size = patch + more
    starts = tiles.axis_starts(size, patch, step)
    assert starts[0] == 0 and starts[-1] == size - patch
    assert max(np.diff(starts), default=0) <= np.ceil(patch * step)
    # a bucket's capacity is counted on its own shape: no volume inside may need more
    assert len(starts) <= len(tiles.axis_starts(size + 7, patch, step))


@pytest.mark.parametrize("size, step", [(7, 0.5), (16, 0.0), (16, 1.5)])
def test_impossible_tilings_are_refused(size, step):
    with pytest.raises(ValueError):
        tiles.axis_starts(size, 8, step)


@pytest.mark.parametrize("patch", [16, 48, 128])
def test_the_profile_is_a_filtered_delta(patch):
    ours = tiles.gaussian_profile(patch)
    assert ours.dtype == np.float32 and ours.max() == ours[patch // 2] == 1 and ours.min() > 0
    np.testing.assert_allclose(ours, gaussian_weights((patch,)), rtol=1e-6)  # float32 rounding, and SciPy's own


def test_padding_and_buckets():
    assert tiles.pad_to_patch((10, 13, 20), (16, 16, 16)) == [(3, 3), (1, 2), (0, 0)]
    assert tiles.bucket_shape((208, 300, 319), (128,) * 3, 32) == (224, 320, 320)
    assert tiles.bucket_shape((10, 33, 50), (48,) * 3, 32) == (48, 64, 64)
