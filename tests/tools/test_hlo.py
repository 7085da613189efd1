"""What is read from a compiled program's text, against XLA's own analysis and a count by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from tools import hlo

pytestmark = pytest.mark.core


def compiled(function, *shapes):
    return jax.jit(function).lower(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)).compile()


def program_of(function, *shapes):
    return hlo.instructions(compiled(function, *shapes).as_text())


def convolution(x, kernel, **options):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, dimension_numbers=numbers, **options)


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (lambda a, b: a @ b, ((64, 96), (96, 32))),
        (lambda a, b: jnp.einsum("bij,bjk->bik", a, b), ((4, 64, 96), (4, 96, 32))),
        (lambda x, k: convolution(x, k, window_strides=(2, 2), padding="SAME"), ((2, 8, 8, 16), (3, 3, 16, 32))),
        (
            lambda x, k: convolution(x, k, window_strides=(1, 1), padding=((1, 2), (2, 1)), lhs_dilation=(2, 2)),
            ((1, 8, 8, 16), (3, 3, 16, 32)),
        ),
        (
            lambda x, k: convolution(x, k, window_strides=(1, 1), padding="VALID", feature_group_count=4),
            ((1, 8, 8, 16), (3, 3, 4, 32)),
        ),
    ],
)
def test_work_is_what_xla_counts(function, shapes):
    # Before optimisation: a CPU's products become calls of a library, which neither counts.
    lowered = jax.jit(function).lower(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes))
    expected = lowered.cost_analysis()["flops"]
    found = hlo.flops(hlo.instructions(lowered.as_text(dialect="hlo")))
    assert found == pytest.approx(expected, rel=1e-3)


def test_bytes_are_what_xla_counts():
    program = compiled(lambda x, y: (x * y + 1).sum(0), (256, 1000), (256, 1000))
    assert hlo.bytes_moved(hlo.instructions(program.as_text())) == program.cost_analysis()["bytes accessed"]


def test_what_a_condition_may_leave_out_is_known():
    def function(x):
        turned = lax.cond(x[0, 0] > 0, lambda y: jnp.sort(y, 0), lambda y: y, x)
        return turned @ turned.T

    program = program_of(function, (64, 64))
    optional = {one.operation: one.optional for one in program if one.operation in ("sort", "dot", "conditional")}
    assert optional.pop("sort")
    assert set(optional.values()) == {False}


def test_a_loop_counts_as_often_as_it_turns():
    def turn(x, w):
        return lax.scan(lambda y, _: (jnp.sin(y @ w), None), x, length=3)[0], None

    def looped(x, weights):
        return lax.scan(turn, x, weights)[0]

    program = program_of(looped, (128, 128), (5, 128, 128))
    assert {one.times for one in program if one.operation == "sine"} == {15}
    once = program_of(lambda x, w: jnp.sin(x @ w), (128, 128), (128, 128))
    assert hlo.bytes_moved(program) >= 15 * hlo.bytes_moved(once)
    # Of the stacked weights each turn takes a slice: all of them in each would be five times as much.
    assert hlo.bytes_moved(program) < 15 * 2 * hlo.bytes_moved(once)


def test_of_a_slice_a_kernel_reads_what_it_takes():
    text = """
%inner (a: f32[100], b: f32[100], c: f32[100]) -> f32[10] {
  %a = f32[100]{0} parameter(0)
  %b = f32[100]{0} parameter(1)
  %c = f32[100]{0} parameter(2)
  %first = f32[10]{0} slice(%a), slice={[0:10]}
  %flat = f32[100]{0} bitcast(%a)
  %second = f32[10]{0} slice(%flat), slice={[50:60]}
  %low = f32[90]{0} slice(%b), slice={[0:90]}
  %high = f32[90]{0} slice(%b), slice={[10:100]}
  %third = f32[10]{0} slice(%c), slice={[0:10]}
  %all = f32[100]{0} negate(%c)
  ROOT %sum = f32[10]{0} add(%first, %second)
}

ENTRY %main (x: f32[100], y: f32[100], z: f32[100]) -> f32[10] {
  %x = f32[100]{0} parameter(0)
  %y = f32[100]{0} parameter(1)
  %z = f32[100]{0} parameter(2)
  ROOT %k = f32[10]{0} fusion(%x, %y, %z), kind=kLoop, calls=%inner
}
"""
    # Two slices of the first; of the second slices that overlap, all of it at most; of the third all.
    assert hlo.bytes_moved(hlo.instructions(text)) == 4 * (20 + 100 + 100 + 10)


def test_kernels_count_and_not_their_parts():
    text = """
%inner (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  ROOT %b = f32[8]{0} negate(%a), backend_config={"estimated_cycles":"1"}
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[8]{0} get-tuple-element(%p), index=1
  %k = f32[8]{0:T(256)S(1)} fusion(%x), kind=kLoop, calls=%inner, backend_config={"estimated_cycles":"100"}
  ROOT %t = (s32[], f32[8]{0}) tuple(%i, %k)
}

%condition (p.1: (s32[], f32[8])) -> pred[] {
  %p.1 = (s32[], f32[8]{0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  %n = s32[]{:T(128)} constant(7)
  ROOT %c = pred[] compare(%i.1, %n), direction=LT
}

ENTRY %main (x.1: f32[8]) -> (s32[], f32[8]) {
  %x.1 = f32[8]{0} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], f32[8]{0}) tuple(%zero, %x.1)
  ROOT %w = (s32[], f32[8]{0}) while(%start), condition=%condition, body=%body
}
"""
    program = hlo.instructions(text)
    assert hlo.bytes_moved(program) == 7 * 64 + 7 * (1 + 4 + 4)  # and the comparisons
    assert hlo.launches(program) == 7 + 7


def test_arrays_as_they_lie_in_a_tpu():
    def lying(result):
        return hlo.Instruction("x", result, "copy", ")", "main").main_memory_bytes

    assert lying("bf16[2,100,30]{2,1,0:T(8,128)(2,1)}") == 2 * 104 * 128 * 2
    assert lying("bf16[2,5,128,32]{2,0,3,1:T(2,128)}") == 2 * 5 * 128 * 32 * 2
    assert lying("f32[3,200]{0,1:T(4,128)}") == 200 * 128 * 4
    assert lying("f32[300]{0:T(256)}") == 512 * 4
    assert lying("f32[8,128]{1,0:T(8,128)S(1)}") == 0
    assert lying("(f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, f32[], u32[]{:S(2)})") == 4096 + 4
    assert lying("f32[3,5]{1,0}") == 60
