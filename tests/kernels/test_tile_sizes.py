"""The tile table and the choice between kernels and XLA."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("triton")

from mednext_jax.kernels import tile_sizes
from mednext_jax.kernels.gpus import tell_once
from mednext_jax.kernels.tile_sizes import depthwise_tiles, has_kernel_size, mlp_tiles
from mednext_jax.kernels.tuned_tiles import SMALL_TILES, TILES
from mednext_jax.kernels.user_tiles import read_tiles, tiles_here, write_tiles
from tests.kernels.simulated import Gpu

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


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Gpu]:
    """A GPU, and a folder of its own for what it keeps."""
    device = Gpu("NVIDIA H100", "9.0")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("jax.local_devices", lambda: [device])
    tiles_here.cache_clear()
    tell_once.cache_clear()
    yield device
    tiles_here.cache_clear()


KEY, OTHER = ("mlp", 32, 32), ("correlate", 3, 8)
OWN = {"voxels": 64, "hidden": 16, "warps": 8, "stages": 1}


def test_a_user_s_own_tiles_come_first_on_the_gpu_that_they_are_of(here: Gpu) -> None:
    package = dict(TILES)
    write_tiles(here, {KEY: OWN})
    assert mlp_tiles("mlp", *KEY[1:], 96) == OWN
    assert mlp_tiles("mlp", 64, 64, 256) == TILES["mlp", 64, 64]
    write_tiles(here, {OTHER: {"planes": 4, "rows": 1, "stages": 2}})  # what is there stays
    assert read_tiles(here).keys() == {KEY, OTHER}
    assert read_tiles(Gpu("NVIDIA H200", "9.0")) == {} and package == TILES
    tiles_here.cache_clear()
    assert depthwise_tiles("correlate", 3, (8, 8, 8))["rows"] == 1


@pytest.mark.parametrize(
    "tiles",
    [
        {("nothing", 1, 1): OWN},
        {KEY: {"voxels": 64}},
        {KEY: {**OWN, "stages": 0}},
        {KEY: {**OWN, "stages": 2.0}},
        {KEY: {**OWN, "voxels": 10**9}},
        {KEY: {**OWN, "programs": 2}},
    ],
)
def test_tiles_that_tune_kernels_would_not_write_are_left_out(
    here: Gpu, caplog: pytest.LogCaptureFixture, tiles: dict
) -> None:
    write_tiles(here, tiles)
    assert mlp_tiles("mlp", *KEY[1:], 96) == TILES[KEY]
    assert "the package's own are used" in caplog.text


def test_a_damaged_table_is_left_out(here: Gpu) -> None:
    path = write_tiles(here, {KEY: OWN})
    whole = path.read_bytes()
    for content in (whole[:-9], whole.replace(b"64", b"65"), b"", b"{}"):
        path.write_bytes(content)
        assert read_tiles(here) == {}, content
    write_tiles(here, {KEY: OWN})
    assert path.read_bytes() == whole


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


def test_small_gpus_tiles_have_the_fields_of_an_h100_s() -> None:
    for key, tiles in SMALL_TILES.items():
        assert tiles.keys() == TILES[key].keys() and tiles != TILES[key]


def test_two_step_backward_has_both_steps() -> None:
    for name, c, e in TILES:
        if name == "mlp_weights":
            assert ("mlp_input", c, e) in TILES


def test_published_kernel_sizes_have_tiles() -> None:
    assert has_kernel_size(3)
    assert has_kernel_size(5)
    assert not has_kernel_size(9)
