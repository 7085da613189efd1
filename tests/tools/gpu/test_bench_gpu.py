"""The benchmark's quick form on a CPU: every part runs at a tiny size, and each figure stands beside its goal."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

pytest.importorskip("triton")

from mednext_jax.kernels.channels_first import ChannelsFirstOps
from mednext_jax.kernels.self_check import Verdict
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.ops.block_kind import BlockKind
from tests.kernels.another_process import run_python
from tools.gpu import quick
from tools.gpu.cases import Case, cases
from tools.gpu.timing import Row


@pytest.mark.slow
def test_the_quick_form_s_dry_run(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    done = run_python("-m", "tools.bench_gpu", "--quick", "--dry-run", "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    rows = {row["what"]: row for row in json.loads(out.read_text())["rows"]}
    for what, goal in quick.GOALS.items():
        if what == quick.CHECK:
            continue
        assert rows[what]["milliseconds"] > 0 and rows[what]["note"].startswith(f"goal {goal:g} ms, ")
    assert "%, goal 5 %, " in rows[quick.FOLDER]["note"]
    assert "no kernels run here" in rows["blocks at a small shape against float32"]["note"]
    assert len(rows) == len(quick.GOALS) + 1  # the folder and, in place of the check, why there is none
    assert "FAILED" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"), [(("--quick",), "no GPU"), (("--dry-run",), "--dry-run goes with --quick")]
)
def test_a_call_that_times_nothing_says_so(arguments: tuple[str, ...], said: str) -> None:
    done = run_python("-m", "tools.bench_gpu", *arguments)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_what_fails_or_comes_too_late_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("predict ended with 1: no disk")

    monkeypatch.setattr(quick.Commands, "_predict", fails)
    last = {quick.SCAN: lambda: iter([Row(quick.SCAN, "", 1.0)])}
    failed, late = (
        {row.what: row.note for row in quick.quick(quick.TINY, last, seconds)} for seconds in (math.inf, -1)
    )
    assert failed[quick.WARM] == failed[quick.FOLDER] == "FAILED RuntimeError: predict ended with 1: no disk"
    assert failed[quick.SCAN] == "goal 500 ms, met"
    assert late == dict.fromkeys((quick.WARM, quick.FOLDER, quick.CHECK, quick.SCAN), "left out: the time is up")


def test_every_kind_is_checked_and_the_check_timed_from_the_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "best_ops", lambda dtype: ChannelsFirstOps())
    wrong, asked = {"down 2-2-4 k3"}, []

    def measure(kind: BlockKind) -> Verdict:
        asked.append(kind)
        return Verdict(4e-3, {"input": 2e-2 if str(kind) in wrong else 1e-3})

    monkeypatch.setattr(quick, "measure", measure)
    *rows, last = quick.check(quick.TINY.config, again=True)
    kinds = list(dict.fromkeys(kind for kind, _, _ in quick.TINY.config.blocks()))
    assert asked == 2 * kinds and [row.what for row in rows] == [f"{kind} against float32" for kind in kinds]
    assert [row.note.split()[0] for row in rows] == ["WRONG" if str(kind) in wrong else "ok" for kind in kinds]
    assert last.what == quick.CHECK and last.milliseconds is not None


def test_a_goal_is_met_or_missed() -> None:
    assert quick.beside_its_goal(Row(quick.STEP, "kernels", 85.0)).note == "goal 85 ms, met"
    assert quick.beside_its_goal(Row(quick.STEP, "kernels", 85.1, note="x")).note == "goal 85 ms, MISSED; x"
    assert quick.beside_its_goal(Row(quick.STEP, "device", 90.0, note="x")).note == "x"


def test_floors_of_a_block_by_hand() -> None:
    """512 voxels of 32 channels: 25 rows of taps with 16 inputs each, and 32 x 64 twice; two a multiplication."""
    case = Case("block", 32, 32, 64, 5, (8, 8, 8), 1, 1)
    depthwise, product = 2 * 512 * 32 * 25 * 16, 2 * 512 * 32 * 64
    assert case.floor_flops == (depthwise + 2 * product, 2 * depthwise + 5 * product)
    up = Case("up", 64, 32, 128, 3, (4, 4, 4), 2, 1)
    coarse = 2 * 64
    assert up.floor_flops[0] == 2 * (coarse * 64 * 9 * 32 + 8 * coarse * (64 * 128 + 128 * 32) + coarse * 64 * 32)


def test_which_blocks_of_l_k5_wait_for_products_and_not_for_memory() -> None:
    found = cases(MedNeXtConfig.variant("L", kernel_size=5), (128, 128, 128), 2)
    ratio = {c.name: (c.floor_flops[0] / 989e12) / (c.floor_bytes[0] / 3e12) for c in found}
    assert ratio["block 32-96-32 at 128"] < 0.5 < 1 < ratio["block 128-1024-128 at 32"]
    assert ratio["block 512-4096-512 at 8"] > 4
