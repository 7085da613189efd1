"""Both clocks of a TPU program: a program counted by hand, and with libtpu programs of known cost."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from tools import hlo, tpu_schedule
from tools.tpu_bundles import KernelSchedule

pytestmark = pytest.mark.core

# One microsecond a kilobyte and a thousand bundles.
CHIP = tpu_schedule.Chip(clock=1e9, bandwidth=1e9 / tpu_schedule.REACHED, memory=16, peak=1e12)

# A prefetch beside a kernel; a loop of three turns; two equal fusions, compiled once; one with no schedule.
PROGRAM = """HloModule jit_f, is_scheduled=true

%fused.1 (p: f32[8,128]) -> f32[8,128] {
  %p = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %tanh.1 = f32[8,128]{1,0:T(8,128)} tanh(%p)
}

%fused.2 (q: f32[8,128]) -> f32[8,128] {
  %q = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %tanh.2 = f32[8,128]{1,0:T(8,128)} tanh(%q), metadata={op_name="jit(f)/while/body/tanh"}
}

%body (state: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %state = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %turn = s32[]{:T(128)} get-tuple-element(%state), index=0
  %x.1 = f32[8,128]{1,0:T(8,128)} get-tuple-element(%state), index=1
  %fusion.2 = f32[8,128]{1,0:T(8,128)} fusion(%x.1), kind=kLoop, calls=%fused.2, metadata={op_name="jit(f)/while/body/tanh"}, backend_config={"estimated_cycles":"100","iteration_bounds":["1"]}
  ROOT %next = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%turn, %fusion.2)
}

%condition (state: (s32[], f32[8,128])) -> pred[] {
  %state.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  ROOT %more = pred[]{:T(512)} constant(true)
}

ENTRY %main (x: f32[8,128], w: bf16[100,30]) -> f32[8,128] {
  %x = f32[8,128]{1,0:T(8,128)} parameter(0)
  %w = bf16[100,30]{1,0:T(8,128)(2,1)} parameter(1)
  %copy-start = (bf16[100,30]{1,0:T(8,128)(2,1)S(1)}, bf16[100,30]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%w)
  %fusion.1 = f32[8,128]{1,0:T(8,128)} fusion(%x), kind=kLoop, calls=%fused.1, metadata={op_name="jit(f)/tanh"}, backend_config={"estimated_cycles":"100","iteration_bounds":["1"]}
  %copy-done = bf16[100,30]{1,0:T(8,128)(2,1)S(1)} copy-done(%copy-start)
  %zero = s32[]{:T(128)} constant(0)
  %start = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%zero, %fusion.1)
  %while = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) while(%start), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %y = f32[8,128]{1,0:T(8,128)} get-tuple-element(%while), index=1
  %sum = f32[8,128]{1,0:T(8,128)} all-reduce(%y), to_apply=%fused.1
  ROOT %dot = f32[8,30]{1,0:T(8,128)S(1)} fusion(%sum, %copy-done), kind=kOutput, calls=%fused.1, backend_config={"estimated_cycles":"50","iteration_bounds":["1"]}
}
"""  # noqa: E501


def test_a_program_counted_by_hand():
    schedules = {"fusion.1": KernelSchedule(10_000, {"VALU": 0.5}, True)}
    time = tpu_schedule._time(hlo.instructions(PROGRAM), schedules, CHIP)
    times = {one.name: one for one in time.kernels}
    assert sorted(times) == ["dot", "fusion.1", "fusion.2"]
    # 8 x 128 float32 in and out; the schedule of the equal kernel is its twin's.
    assert times["fusion.1"].memory == pytest.approx(8.192e-6)
    assert (times["fusion.1"].compute, times["fusion.2"].compute) == (pytest.approx(10e-6), pytest.approx(10e-6))
    assert (times["fusion.1"].times, times["fusion.2"].times) == (1, 3)
    assert times["fusion.2"].label == "body/tanh"
    # In the fast memory an array costs nothing; this kernel has no schedule, which is told.
    assert (times["dot"].compute, times["dot"].memory) == (None, pytest.approx(4.096e-6))
    assert (time.unscheduled, time.collectives, time.optional_seconds) == (1, 1, 0)
    # Of 104 x 128 bfloat16 with their padding, 26.6 us, the kernel between hides what it leaves of the memory: 1.8 us.
    assert time.waits == pytest.approx(104 * 128 * 2e-9 - 1.808e-6)
    assert time.seconds == pytest.approx(4 * 10e-6 + 4.096e-6 + time.waits)
    assert time.estimated_seconds == pytest.approx(450e-9)
    assert "by their bytes only" in tpu_schedule.summary(time)
    assert tpu_schedule.table(time, 1).splitlines()[2].startswith("| fusion.2 | body/tanh | 3 | 0.030 |")


def test_no_schedule_of_a_program(tmp_path):
    with pytest.raises(ValueError, match="wrote no schedule"):
        tpu_schedule.time_of(None, tmp_path, "TPU v5 lite")


def test_a_dump_is_read_once(tmp_path):
    for name in ("12-fusion-final.3-02-final_bundles.txt", "12-fusion-final.3-01-schedule-analysis_final_bundles.txt"):
        (tmp_path / name).write_text("   0   :  { %s9 = smov 0 }\n")
    (tmp_path / "12-fusion-final.3-00-final_hlo-static-per-bundle-utilization.txt").write_text(
        "== CAPACTIY:\nMXU\n    4\n== UTILIZATION:\n2\n"
    )
    assert tpu_schedule._read(tmp_path) == {"fusion-final.3": KernelSchedule(1, {"MXU": 0.5}, True)}
    assert not list(tmp_path.iterdir())


needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")


def schedule_tool(*arguments):
    command = [sys.executable, "-m", "tools.tpu_schedule", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.getcwd()})


@needs_libtpu
@pytest.mark.parametrize(
    "topology", ["v5e:2x4", *(pytest.param(name, marks=pytest.mark.slow) for name in ("v5p:2x2x2", "v6e:2x4"))]
)
def test_programs_of_known_cost(topology):
    done = schedule_tool("--topology", topology, "--json")
    assert done.returncode == 0, done.stderr
    times = {row["program"]: row for row in json.loads(done.stdout)}
    assert len(times) == 5
    for name, row in times.items():
        ratio = row["schedule_seconds"] / row["counted_seconds"]
        # What the memory bounds is its bytes; a product is packed a sixth tighter than a unit can take rows, or it
        # waits for its operands' loads.
        low, high = (0.8, 1.3) if name == "matrix product" else (0.999, 1.1)
        assert low < ratio < high, (name, row)
    # What the estimate gets wrong: a kernel of half the bytes costs it the same, one of Pallas's nothing.
    halves = [times[f"copy, {dtype}"]["estimated_seconds"] for dtype in ("bfloat16", "float32")]
    assert halves[0] == pytest.approx(halves[1], rel=0.02)
    assert times["copy by Pallas"]["estimated_seconds"] == 0


@needs_libtpu
def test_a_program_of_ones_own():
    done = schedule_tool("tests.tools.one_product:lowered", "--top", "1")
    assert done.returncode == 0, done.stderr
    head, _, row, last = done.stdout.strip().splitlines()
    assert head.startswith("| kernel | from | times | schedule (ms) |")
    assert row.split(" | ")[2] == "3"
    assert last.startswith("TPU v5 lite: ")
    assert "ms by schedule" in last


def test_a_program_that_is_none():
    done = schedule_tool("nonsense")
    assert done.returncode == 2
    assert "'nonsense' is not MODULE:FUNCTION" in done.stderr
