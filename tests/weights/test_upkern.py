"""UpKern against the reference's matrices and PyTorch's own interpolation."""

from __future__ import annotations

import numpy as np
import pytest

from mednext_jax.errors import InputError
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.weights.names import expected_shapes, from_torch_names, to_torch_names
from mednext_jax.weights.upkern import upkern, upkern_matrix

pytestmark = pytest.mark.core

MATRICES = {
    (3, 5): [[1, 0, 0], [0.6, 0.4, 0], [0, 1, 0], [0, 0.4, 0.6], [0, 0, 1]],
    (3, 7): np.array([[7, 0, 0], [6, 1, 0], [3, 4, 0], [0, 7, 0], [0, 4, 3], [0, 1, 6], [0, 0, 7]]) / 7,
    (5, 7): np.array(
        [
            [7, 0, 0, 0, 0],
            [3, 4, 0, 0, 0],
            [0, 5, 2, 0, 0],
            [0, 0, 7, 0, 0],
            [0, 0, 2, 5, 0],
            [0, 0, 0, 4, 3],
            [0, 0, 0, 0, 7],
        ]
    )
    / 7,
}


def network(**fields):
    config = MedNeXtConfig(base_channels=2, block_counts=(1,) * 9, **fields)
    rng = np.random.default_rng(0)
    state = {key: rng.standard_normal(shape, np.float32) for key, shape in expected_shapes(config).items()}
    return config, from_torch_names(config, state)


@pytest.mark.parametrize("sizes", MATRICES)
def test_matrices(sizes):
    np.testing.assert_allclose(upkern_matrix(*sizes), MATRICES[sizes], atol=1e-15)


@pytest.mark.parametrize("size", [5, 7, 9])
def test_it_is_what_torch_interpolates(size):
    torch = pytest.importorskip("torch")
    config, params = network()
    before = to_torch_names(config, params)
    larger, resampled = upkern(config, params, size)
    after = to_torch_names(larger, resampled)
    assert (larger.encoder_kernel_size, larger.decoder_kernel_size) == (size, size)
    changed = 0
    for key, value in before.items():
        expected = torch.from_numpy(value)
        if ".conv1.weight" in key:
            expected = torch.nn.functional.interpolate(expected, size=(size,) * 3, mode="trilinear")
            changed += 1
            # torch interpolates in float32, one rounding a corner
            np.testing.assert_allclose(after[key], expected.numpy(), atol=1e-6)
        else:
            np.testing.assert_array_equal(after[key], expected.numpy())
    assert changed == 9 + 8


def test_an_equal_size_changes_nothing():
    config, params = network(encoder_kernel_size=5, decoder_kernel_size=3)
    larger, resampled = upkern(config, params, 5)
    assert larger.decoder_kernel_size == 5
    assert resampled["enc_block_0"]["0"]["conv1"]["kernel"] is params["enc_block_0"]["0"]["conv1"]["kernel"]
    assert resampled["dec_block_0"]["0"]["conv1"]["kernel"].shape == (5, 5, 5, 2)


@pytest.mark.parametrize("size", [4, 3, 1, -5])
def test_shrinking_and_even_sizes_are_refused(size):
    config, params = network(encoder_kernel_size=5, decoder_kernel_size=5)
    with pytest.raises(InputError, match="odd size of at least 5"):
        upkern(config, params, size)
