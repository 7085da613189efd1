"""The blocks that are timed are the network's, and the least they can take is counted by hand."""

from __future__ import annotations

import jax
import pytest

from mednext_jax.ops.local import LocalOps
from tools import tpu_blocks
from tools.tpu_schedule import Chip

pytestmark = pytest.mark.core

SLOW_MEMORY = Chip(clock=1.0, bandwidth=2.0, memory=1, peak=1e30)
SLOW_PRODUCTS = Chip(clock=1.0, bandwidth=1e30, memory=1, peak=2.0)


def test_blocks_of_a_network():
    blocks = tpu_blocks.blocks_of("L/5")
    assert len(blocks) == 5 + 4 + 4
    assert [blocks[f"same{level}"][2] for level in range(5)] == [6, 8, 16, 16, 8]
    assert {name: blocks[name][1] for name in ("down0", "up0", "up3", "same4")} == {
        "down0": 0,
        "up0": 0,
        "up3": 3,
        "same4": 4,
    }
    assert (blocks["up0"][0].channels, blocks["up0"][0].out_channels) == (64, 32)


def test_the_least_time_of_a_block():
    same, level, _ = tpu_blocks.blocks_of("S/3")["same0"]
    voxels, channels, hidden = 2 * 16**3, 32, 64
    least = [tpu_blocks.floor_seconds(same, level, mode, 2, 16, SLOW_MEMORY) for mode in tpu_blocks.MODES]
    assert least == [5 * voxels * channels, 13 * voxels * channels]
    products = tpu_blocks.floor_seconds(same, level, "forward", 2, 16, SLOW_PRODUCTS)
    assert products == voxels * (27 * channels + 2 * channels * hidden)


@pytest.mark.parametrize("name", ["same1", "down1", "up1"])
def test_a_block_is_lowered_with_its_gradients(name):
    kind, level, _ = tpu_blocks.blocks_of("S/3")[name]
    lowered = tpu_blocks.lower_block(kind, level, "train", 1, 16, jax.devices()[0], LocalOps("tpu"))
    y, (_, *dx) = lowered.out_info
    assert y.shape == (1, *[4 if name == "down1" else 8] * 3, kind.out_channels)
    assert dx[0].shape == (1, *[4 if name == "up1" else 8] * 3, kind.channels)


def test_a_block_that_is_none(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["tpu_blocks", "--blocks", "same0,side1"])
    with pytest.raises(SystemExit, match="2"):
        tpu_blocks.main()
    assert "no side1; there are same0" in capsys.readouterr().err
