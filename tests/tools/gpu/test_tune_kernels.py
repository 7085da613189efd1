"""The search for the fastest tiles, without a GPU: what it keeps, and how it writes the package's table again."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("triton")

from mednext_jax.kernels import tile_sizes, tuned_tiles
from mednext_jax.kernels.tuned_tiles import SMALL_TILES, TILES
from tools.gpu import tune_kernels
from tools.gpu.cases import Case

CASE = Case("block", 32, 32, 64, 3, (16, 16, 16), 1, 2)
KEY = ("correlate", 3, 16)
TABLE = Path(tuned_tiles.__file__)


class Pool:
    """Does at once what it is given."""

    def submit(self, function, *arguments):
        result = function(*arguments)
        return SimpleNamespace(result=lambda: result, cancel=lambda: None)


def test_the_fastest_that_compiles_is_found_and_the_table_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def compile_candidate(used_by, key, tiles, capability):
        tried.append(tiles)
        return None if tiles["stages"] == 2 else tiles  # as if that spilled

    def time(self, tiles):
        if tiles["rows"] == 1:
            raise RuntimeError("too many threads")
        return 1.0 + abs(tiles["planes"] - 32) + tiles["stages"]

    monkeypatch.setattr(tune_kernels, "compile_candidate", compile_candidate)
    monkeypatch.setattr(tune_kernels, "Gpu", type("Gpu", (), {"__init__": lambda *_: None, "time": time}))
    before = dict(TILES)
    found = tune_kernels.tune([CASE], ["correlate/3"], Pool(), math.inf, 90)
    # A row of 1 fails and two stages spill; of the entry's neighbours the cheapest is left.
    assert found == {KEY: {"planes": 32, "rows": 2, "stages": 1}}
    assert tried[0] == TILES[KEY] and before == TILES
    assert tile_sizes.entry(*KEY) == TILES[KEY]
    assert tune_kernels.tune([CASE], ["mlp_back"], Pool(), -math.inf, 90) == {}  # no time: all stays


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "tuned_tiles.py"
    path.write_text(TABLE.read_text())
    return path


def tables(path: Path) -> tuple[dict, dict]:
    space: dict = {}
    exec(path.read_text(), space)
    return space["TILES"], space["SMALL_TILES"]


def test_the_package_s_table_is_rewritten_where_tiles_changed(table: Path) -> None:
    tune_kernels.write_table(table, {}, small=False)
    assert table.read_text() == TABLE.read_text()
    tiles = {"planes": 4, "rows": 1, "stages": 1}
    tune_kernels.write_table(table, {KEY: tiles}, small=False)
    assert tables(table) == ({**TILES, KEY: tiles}, SMALL_TILES)


def test_a_small_gpu_s_tiles_go_into_its_own_table(table: Path) -> None:
    first = next(iter(SMALL_TILES))
    changed = {**SMALL_TILES[first], "stages": 1}
    tiles = {"planes": 4, "rows": 1, "stages": 1}
    tune_kernels.write_table(table, {KEY: tiles, first: changed, ("mlp", 32, 32): TILES["mlp", 32, 32]}, small=True)
    assert tables(table) == (TILES, {**SMALL_TILES, first: changed, KEY: tiles})
