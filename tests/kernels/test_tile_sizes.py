"""The tile table and the choice between kernels and XLA."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from mednext_jax.kernels import tile_sizes
from mednext_jax.kernels.tile_sizes import depthwise_tiles, has_kernel_size, mlp_tiles
from mednext_jax.kernels.tuned_tiles import SMALL_TILES, TILES

DEPTHWISE = sorted({(name, k) for name, k, _ in TILES if not name.startswith("mlp")})


@pytest.mark.parametrize("name, k", DEPTHWISE)
def test_every_extent_gets_tiles_that_fit_it(name: str, k: int) -> None:
    for extent in (1, 2, 3, 5, 6, 8, 10, 12, 20, 24, 48, 80, 96, 128, 160, 192, 320):
        tiles = depthwise_tiles(name, k, (extent, extent, extent))
        assert 1 <= tiles["planes"] <= extent
        assert 1 <= tiles["rows"] <= extent


def test_planes_divide_the_depth_evenly() -> None:
    assert depthwise_tiles("correlate", 5, (96, 96, 96))["planes"] == 48


def test_tiles_follow_the_smallest_extent() -> None:
    assert depthwise_tiles("correlate", 5, (128, 128, 8))["rows"] == TILES["correlate", 5, 8]["rows"]


def test_fused_mlp_only_where_the_table_has_it() -> None:
    assert mlp_tiles("mlp", 32, 32, 96) == TILES["mlp", 32, 32]
    assert mlp_tiles("mlp", 512, 512, 4096) is None
    assert mlp_tiles("mlp", 32, 32, 100) is None  # no tile of tensor cores divides it
    wide = TILES["mlp_weights", 64, 64]["hidden"]
    assert mlp_tiles("mlp_weights", 64, 64, 3 * wide // 2) == {**TILES["mlp_weights", 64, 64], "hidden": wide // 2}
    assert mlp_tiles("mlp_back", 32, 32, 128) is None  # its sums would not stay in registers


def test_gpus_with_little_shared_memory_have_tiles_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rtx4090:
        compute_capability = "8.9"

    tile_sizes.shared_bytes.cache_clear()
    assert mlp_tiles("mlp", 256, 128, 512) == TILES["mlp", 256, 128]
    monkeypatch.setattr("jax.devices", lambda: [Rtx4090()])
    tile_sizes.shared_bytes.cache_clear()
    try:
        assert mlp_tiles("mlp", 256, 128, 512) == SMALL_TILES["mlp", 256, 128]
        assert mlp_tiles("mlp", 32, 32, 96) == TILES["mlp", 32, 32]
    finally:
        tile_sizes.shared_bytes.cache_clear()


def test_two_step_backward_has_both_steps() -> None:
    for name, c, e in TILES:
        if name == "mlp_weights":
            assert ("mlp_input", c, e) in TILES


def test_published_kernel_sizes_have_tiles() -> None:
    assert has_kernel_size(3)
    assert has_kernel_size(5)
    assert not has_kernel_size(9)
