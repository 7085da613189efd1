"""The schedule of a kernel from texts of libtpu, counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.tpu_bundles import kernel_schedule

pytestmark = pytest.mark.core

RECORDED = Path(__file__).parent / "recorded"

# A pipelined loop of 10 turns whose index runs two stages ahead of its end; bundles 2 to 8 are in it.
PIPELINED = """= control target key start
LB: loop body

     0   :  { %s9 = smov 0 }
   0x1   :  { %s8 = smov 0 } /* Start region 7 */
   0x2 LB: > { %s1 = sadd.s32 4294967294, %s9 /* iteration index, stage = 2 */ } /* a comment
of two lines: { } Start region 9 */
   0x3   : > { %p2 = scmp.ge.s32.totalorder %s1, LIMIT /* loop exit test */ }
   0x4   : > { %16 = sbr.rel (!%p2) target = $region9 }
   0x5   : > { %17 = vmatmul %v1 }
   0x6   :  {}
   0x7   :  {}
   0x8   :  {}
   0x9   :  { %20 = sbr.rel (%p2) target = $region12 }
   0xa   :  {}
"""
UNITS = "== CAPACTIY:\nMXU, VLOAD, VLOAD:FILL\n    4     2     2\n== UTILIZATION:\n"


def test_a_pipelined_loop():
    rows = ["0 1 1"] * 2 + ["2 0 0"] * 7 + ["0 0 0"] * 2
    schedule = kernel_schedule(PIPELINED.replace("LIMIT", "12"), UNITS + "\n".join(rows) + "\n")
    assert (schedule.bundles, schedule.complete) == (4 + 7 * 10, True)
    assert schedule.slots == {"MXU": pytest.approx(7 * 10 * 2 / 4 / 74), "VLOAD": pytest.approx(2 / 2 / 74)}


def test_a_loop_that_runs_until_a_register_says_so():
    schedule = kernel_schedule(PIPELINED.replace("LIMIT", "%s5"))
    assert (schedule.bundles, schedule.complete, schedule.slots) == (11, False, {})


def test_loops_in_a_kernel_of_pallas():
    # A grid of 64 with a loop of 32 inside, 73 bundles: 11 in the inner loop, 53 in the outer alone.
    texts = [(RECORDED / f"tanh_kernel-{kind}.txt").read_text() for kind in ("bundles", "utilization")]
    schedule = kernel_schedule(*texts)
    assert (schedule.bundles, schedule.complete) == (9 + 64 * (53 + 32 * 11), True)
    # One store and one tanh for each of 64 x 32 registers of 8 x 128.
    assert schedule.slots["VSTORE"] * schedule.bundles == pytest.approx(64 * 32)
    assert schedule.slots["EUP"] * schedule.bundles == pytest.approx(64 * 32)


def test_no_bundles():
    assert kernel_schedule("", UNITS).bundles == 0
