"""The machine that runs PTX on NumPy: what it computes, and the mistakes that it must see."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest

from tools.gpu.ptx import PTXError, run

pytestmark = pytest.mark.core

Array = np.ndarray


def kernel(body: str, threads: int = 64) -> str:
    """A kernel of two arrays in the form in which LLVM writes it."""
    lines = "\n".join(f"\t{line.strip()};" if line.strip()[-1:] != ":" else line.strip() for line in body.split("\n"))
    return f""".version 8.7
.visible .entry test_kernel(
\t.param .u64 .ptr .global .align 1 test_kernel_param_0,
\t.param .u64 .ptr .global .align 1 test_kernel_param_1
)
.reqntid {threads}
{{
\t.reg .b32 \t%r<99>;
{lines}
\tret;
}}
"""


START = """ld.param.b64 %rd1, [test_kernel_param_0]
    ld.param.b64 %rd2, [test_kernel_param_1]
    mov.u32 %r1, %tid.x
    mul.wide.u32 %rd3, %r1, 4
    add.s64 %rd4, %rd1, %rd3
    add.s64 %rd5, %rd2, %rd3
    mov.u32 %r2, global_smem
    shl.b32 %r3, %r1, 2
    add.s32 %r4, %r2, %r3
    xor.b32 %r5, %r4, 128
"""  # 4 bytes per thread: %rd4 in, %rd5 out, %r4 of shared memory, %r5 the same of the other warp


def run_one(body: str, given: Array, out: Array | None = None, blocks: int = 1, threads: int = 64) -> Array:
    out = np.empty_like(given) if out is None else out
    run(kernel(START + "    " + body.strip(), threads), (blocks,), [given], [out], 1024)
    return out


NUMBERS = np.arange(64, dtype=np.float32)
SWAP = """
    ld.global.b32 %r10, [%rd4]
    st.shared.b32 [%r4], %r10
    bar.sync 0
    ld.shared.b32 %r11, [%r5]
    st.global.b32 [%rd5], %r11
"""


def test_warps_exchange_through_shared_memory_past_a_barrier() -> None:
    np.testing.assert_array_equal(run_one(SWAP, NUMBERS), np.roll(NUMBERS, 32))


def test_a_missing_barrier_is_seen() -> None:
    with pytest.raises(PTXError, match="no barrier between"):
        run_one(SWAP.replace("    bar.sync 0\n", ""), NUMBERS)
    again = "    st.shared.b32 [%r4], %r11\n"
    with pytest.raises(PTXError, match="reads shared memory that another wrote"):
        run_one(SWAP + again, NUMBERS)
    run_one(SWAP + "    bar.sync 0\n" + again, NUMBERS)


def test_warps_may_write_to_one_place_what_is_the_same() -> None:
    run_one("st.shared.b32 [%r2], 7", NUMBERS)
    with pytest.raises(PTXError, match="writes shared memory that another uses"):
        run_one("st.shared.b32 [%r2], %r1", NUMBERS)


def test_a_barrier_that_some_threads_miss_is_seen() -> None:
    with pytest.raises(PTXError, match="barrier is not reached"):
        run_one("setp.lt.u32 %p1, %r1, 32\n    @%p1 bra $L__out\n    bar.sync 0\n$L__out:", NUMBERS)


def test_memory_beyond_the_arrays_is_seen() -> None:
    with pytest.raises(PTXError, match="read outside"):
        run_one("ld.global.b32 %r10, [%rd4+4]", NUMBERS)
    with pytest.raises(PTXError, match="written outside"):
        run_one("st.global.b32 [%rd4], %r1", NUMBERS)
    with pytest.raises(PTXError, match="not aligned"):
        run_one("ld.global.v2.b32 {%r10, %r11}, [%rd4]", NUMBERS)
    with pytest.raises(PTXError, match="outside of shared"):
        run_one("st.shared.b32 [%r4+1024], %r1", NUMBERS)


def test_two_blocks_that_write_to_one_place_are_seen() -> None:
    body = "cvt.rn.f32.s32 %r10, %r1\n    st.global.b32 [%rd5], %r10"
    np.testing.assert_array_equal(run_one(body, NUMBERS), NUMBERS)
    with pytest.raises(PTXError, match="two blocks"):
        run_one(body, NUMBERS, blocks=2)


def test_an_asynchronous_copy_arrives_when_it_is_waited_for() -> None:
    body = """
    cp.async.ca.shared.global [ %r4 + 0 ], [ %rd4 + 0 ], 0x4
    cp.async.commit_group
    cp.async.wait_group 0
    ld.shared.b32 %r10, [%r4]
    st.global.b32 [%rd5], %r10
    """
    np.testing.assert_array_equal(run_one(body, NUMBERS), NUMBERS)
    assert np.isnan(run_one(body.replace("wait_group 0", "wait_group 1"), NUMBERS)).all()


def test_lanes_part_and_meet_again() -> None:
    """Each thread of each block adds its number as often as its block's number says; odd ones another 100."""
    body = """
    mov.b32 %r10, 0f00000000
    mov.u32 %r11, %ctaid.x
    cvt.rn.f32.s32 %r12, %r1
$L__loop:
    setp.eq.b32 %p1, %r11, 0
    @%p1 bra $L__done
    add.f32 %r10, %r10, %r12
    sub.s32 %r11, %r11, 1
    bra.uni $L__loop
$L__done:
    and.b32 %r13, %r1, 1
    setp.ne.b32 %p2, %r13, 0
    @%p2 add.f32 %r10, %r10, 0f42C80000
    bar.sync 0
    mov.u32 %r14, %ctaid.x
    mad.wide.u32 %rd6, %r14, 256, %rd5
    st.global.b32 [%rd6], %r10
    """
    found = run_one(body, NUMBERS, np.empty((3, 64), np.float32), blocks=3)
    np.testing.assert_array_equal(found, NUMBERS * np.arange(3)[:, None] + 100 * (np.arange(64) % 2))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_tensor_core_product_of_fragments(seed: int) -> None:
    """ldmatrix, mma and the accumulators' places, as the PTX manual draws them."""
    random = np.random.default_rng(seed)
    a, b = random.integers(-8, 8, (16, 16)), random.integers(-8, 8, (16, 8))  # exact in bfloat16
    given = np.concatenate([a.ravel(), b.ravel()]).astype(np.float32)
    given = (given.view(np.uint32) >> 16).astype(np.uint16)
    body = """
    mov.u32 %r20, %laneid
    mul.wide.u32 %rd6, %r20, 16
    add.s64 %rd7, %rd1, %rd6
    ld.global.v4.b32 {%r21, %r22, %r23, %r24}, [%rd7]
    shl.b32 %r25, %r20, 4
    st.shared.v4.b32 [%r25], {%r21, %r22, %r23, %r24}
    setp.lt.u32 %p1, %r20, 16
    @%p1 ld.global.v4.b32 {%r26, %r27, %r28, %r29}, [%rd7+512]
    @%p1 st.shared.v4.b32 [%r25+512], {%r26, %r27, %r28, %r29}
    bar.warp.sync -1
    and.b32 %r30, %r20, 15
    shl.b32 %r31, %r30, 5
    and.b32 %r32, %r20, 16
    add.s32 %r33, %r31, %r32
    ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r34, %r35, %r36, %r37}, [%r33]
    shl.b32 %r38, %r30, 4
    ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r39, %r40}, [%r38+512]
    mov.b32 %r41, 0f3F800000
    mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 { %r42, %r43, %r44, %r45 }, { %r34, %r35, %r36, %r37 }, \
{ %r39, %r40 }, { %r41, %r41, %r41, %r41 }
    shl.b32 %r46, %r20, 3
    cvt.u64.u32 %rd8, %r46
    add.s64 %rd9, %rd2, %rd8
    st.global.v2.b32 [%rd9], {%r42, %r43}
    st.global.v2.b32 [%rd9+256], {%r44, %r45}
    """
    found = run_one(body.replace("\\\n", ""), given, np.empty((16, 8), np.float32), threads=32)
    np.testing.assert_array_equal(found, a @ b + 1)


@pytest.mark.parametrize(
    "instruction, expected",
    [
        ("mul.lo.s32 %r11, %r10, -858993459", lambda x: x * -858993459 & 0xFFFFFFFF),
        ("mul.hi.u32 %r11, %r10, -858993459", lambda x: (x & 0xFFFFFFFF) * 3435973837 >> 32),
        ("mul.hi.s32 %r11, %r10, -858993459", lambda x: x * -858993459 >> 32),
        ("shr.s32 %r11, %r10, 40", lambda x: x >> 31),
        ("shr.u32 %r11, %r10, 32", lambda x: 0),
        ("shl.b32 %r11, %r10, 31", lambda x: x << 31),
        ("shf.l.wrap.b32 %r11, %r10, %r10, 29", lambda x: x << 29 | (x & 0xFFFFFFFF) >> 3),
        ("shf.r.wrap.b32 %r11, %r10, 5, 35", lambda x: 5 << 29 | (x & 0xFFFFFFFF) >> 3),
        ("bfe.u32 %r11, %r10, 3, 4", lambda x: x >> 3 & 15),
        ("bfe.s32 %r11, %r10, 1, 1", lambda x: -(x >> 1 & 1)),
        ("prmt.b32 %r11, %r10, 19088743, 0x5410U", lambda x: x & 0xFFFF | 0x45670000),
        ("cvt.rn.f32.s32 %r11, %r10", lambda x: int(np.float32(x).view(np.int32))),
        ("max.s32 %r11, %r10, 0", lambda x: max(x, 0)),
        ("not.b32 %r11, %r10", lambda x: ~x),
    ],
)
def test_integers(instruction: str, expected: Callable[[int], int]) -> None:
    given = np.random.default_rng(0).integers(-(2**31), 2**31, 64).astype(np.int32)
    given[:3] = [0, -1, 2**31 - 1]
    body = f"ld.global.b32 %r10, [%rd4]\n    {instruction}\n    st.global.b32 [%rd5], %r11"
    wanted = np.array([expected(int(x)) & 0xFFFFFFFF for x in given], np.uint32)
    np.testing.assert_array_equal(run_one(body, given).view(np.uint32), wanted)


@pytest.mark.parametrize("instruction, expected", [("mul", [2.5, 24]), ("add", [3.5, -11]), ("fma.rn", [6, 13])])
def test_pairs_of_floats(instruction: str, expected: list[float]) -> None:
    third = ", %rd22" if instruction == "fma.rn" else ""
    body = f"""
    mov.b64 %rd20, {{0f3F800000, 0fC1000000}}
    mov.b64 %rd21, {{0f40200000, 0fC0400000}}
    add.f32x2 %rd22, %rd20, %rd21
    {instruction}.f32x2 %rd23, %rd20, %rd21{third}
    mov.b64 {{%r11, %r12}}, %rd23
    setp.eq.s32 %p1, %r1, 0
    @%p1 st.global.v2.b32 [%rd5], {{%r11, %r12}}
    """
    np.testing.assert_array_equal(run_one(body, NUMBERS)[:2], expected)


def test_rounding_to_bfloat16() -> None:
    """To nearest, ties to even, and not-a-number stays so: as JAX rounds."""
    random = np.random.default_rng(0)
    given = random.normal(size=64).astype(np.float32)
    given[:4] = [1 + 2**-8, 1 + 3 * 2**-8, np.inf, np.nan]
    body = """
    ld.global.b32 %r10, [%rd4]
    cvt.rn.bf16x2.f32 %r11, %r10, 0f00000000
    st.global.b32 [%rd5], %r11
    """
    expected = np.asarray(jnp.asarray(given).astype(jnp.bfloat16).astype(jnp.float32))
    np.testing.assert_array_equal(run_one(body, given), expected)


def test_what_it_does_not_know_is_refused() -> None:
    with pytest.raises(PTXError, match="not known here: red.global"):
        run_one("red.global.add.f32 [%rd5], %r1", NUMBERS)
    with pytest.raises(PTXError, match="no kernel"):
        run("int main() {}", (1,), [NUMBERS], [NUMBERS.copy()], 0)
