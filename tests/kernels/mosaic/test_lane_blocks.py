"""The blocks through the TPU kernels, every output and gradient, against XLA in float32; Pallas interprets the kernels.

The interpreter keeps memory as a TPU has it: what nobody wrote is not a number, copies happen when they are waited for.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl

from mednext_jax.kernels.gpus import tell_once
from mednext_jax.kernels.mosaic import lane_blocks, lane_ops, mlp
from mednext_jax.kernels.mosaic.instance_norm import InstanceNorm
from mednext_jax.kernels.mosaic.lane_ops import LaneOps
from mednext_jax.kernels.mosaic.layout import Lines, from_lanes, to_lanes
from mednext_jax.ops.block_kind import BlockKind
from mednext_jax.ops.local import LocalOps
from mednext_jax.ops.mlp import MLPWeights
from mednext_jax.ops.norm import EPSILON, inside_front_padding, moments
from tests.kernels.compare_blocks import NORMAL, C, E, block_arguments, check_block, weights, with_gradients

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("quickly_compiled")]

R = 6
FIT = 3e-4  # the kernels' GELU is a fit


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pallas's interpreter of TPU kernels, in float32, for so few channels."""
    monkeypatch.setattr(lane_ops, "COMPUTE_TYPE", jnp.float32)
    monkeypatch.setattr(lane_ops, "_SUBLANES", 1)
    monkeypatch.setattr(pl, "pallas_call", functools.partial(pl.pallas_call, interpret=True))
    yield


arguments = functools.partial(block_arguments, r=R)
check = functools.partial(check_block, tolerance=FIT, ops=(LocalOps("tpu"), LaneOps()))


# Rows that fill their lanes, and such that do not; 6 and 10 occur below patches of 96 and 160.
@pytest.mark.parametrize(
    "n, k, extents",
    [
        (1, 3, (2, 3, 10)),
        pytest.param(3, 3, (1, 16, 8), marks=pytest.mark.slow),
        pytest.param(2, 5, (2, 3, 65), marks=pytest.mark.slow),
    ],
)
def test_block(n: int, k: int, extents: tuple[int, int, int]) -> None:
    check("block", arguments("block", k, extents, n), residual=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind, extents", [("down", (2, 6, 20)), ("up", (1, 3, 6))])
def test_resampling_block(kind: str, extents: tuple[int, int, int]) -> None:
    check(kind, arguments(kind, 3, extents))


@pytest.mark.slow
def test_blocks_without_residual() -> None:
    check("block", arguments("block", 3, (2, 2, 4)), residual=False)
    check("up", arguments("up", 3, (1, 2, 3), res_conv=False))
    check("down", arguments("down", 3, (2, 4, 6), res_conv=False))


@pytest.mark.slow
def test_block_on_a_part_with_its_halo() -> None:
    """Along an axis whose neighbours are there the convolution is 'valid', and gradients reach the halo."""
    check("block", arguments("block", 3, (4, 3, 6)), residual=True, split=("space", None, None))


@pytest.mark.slow
def test_block_on_a_part_of_two_axes() -> None:
    check("block", arguments("block", 3, (4, 5, 6)), residual=True, split=("space", "height", None))


def test_a_step_of_many_channels_takes_fewer_lines() -> None:
    """A line in and out of 1024 bfloat16 channels each, twice, is 1 MiB of the 28."""
    assert mlp._cut(Lines(64, 64, 64), 2 * 2 * 32, 64, 2**19) == (64, 16)
    assert mlp._cut(Lines(64, 64, 64), 2 * 2 * 1024, 4096, 2**19) == (16, 1)


def test_many_lines_take_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums run over steps of the grid, turns of a step's loop, parts of the hidden layer; each line has a mask."""
    monkeypatch.setattr(mlp, "_LINES", 4)
    monkeypatch.setattr(mlp, "_JOINED", 2)
    monkeypatch.setattr(mlp, "_AT_ONCE", 4)
    n, lines = 2, Lines(4, 35, 13)
    keys = jax.random.split(jax.random.key(0), 3)
    x, g = NORMAL(keys[0], (n, 4, 35, 13, C)), NORMAL(keys[1], (n, 4, 35, 13, E))
    w = weights(keys[2], C, R, E)
    assert mlp._cut(lines, 4 * (C + E), R, mlp._HIDDEN) == (4, 2)

    def plain(u: jax.Array, w: MLPWeights) -> jax.Array:
        return LocalOps().norm_mlp(u, w, residual=None, front_padding=True)

    def through_kernels(x: jax.Array, g: jax.Array, w: MLPWeights) -> Any:
        mean, variance = moments(x, inside_front_padding(x))
        rise = jax.lax.rsqrt(variance + EPSILON).reshape(n, C)
        norm = InstanceNorm(mean.reshape(n, C), rise * w.norm_scale, w.norm_bias + 0 * rise, rise, jnp.float32(1))
        y = mlp.forward(to_lanes(x), norm, w, lines, beside=None, front=True)
        _, sums = mlp.backward(to_lanes(x), norm, w, to_lanes(g), lines, front=True)
        return from_lanes(y, lines), (sums.through_norm[:, 1] * rise).sum(0), sums

    def through_xla(x: jax.Array, g: jax.Array, w: MLPWeights) -> Any:
        y, pull = jax.vjp(plain, x, w)
        return y, pull(g)[1]

    expected, dw = jax.jit(through_xla)(x, g, w)
    found, by_scale, sums = jax.jit(through_kernels)(x, g, w)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    np.testing.assert_allclose(by_scale, dw.norm_scale, rtol=1e-3, atol=1e-2)
    for name in ("expand_kernel", "expand_bias", "compress_kernel", "compress_bias"):
        np.testing.assert_allclose(getattr(sums, name), getattr(dw, name), rtol=1e-3, atol=1e-2)


@pytest.mark.slow
def test_equal_blocks_in_a_loop_and_under_remat_are_blocks() -> None:
    ops = LaneOps()
    x, conv1, w = arguments("block", 3, (1, 2, 4))
    twice = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), (conv1, w))
    policy = jax.checkpoint_policies.save_only_these_names("dw")

    def one(x: Any, given: Any) -> tuple[Any, None]:
        return ops.block(x, *given, residual=True), None

    def unrolled(x: Any, given: Any) -> Any:
        for i in range(2):
            x, _ = one(x, jax.tree.map(lambda leaf, i=i: leaf[i], given))
        return x

    def looped(x: Any, given: Any) -> Any:
        return jax.lax.scan(jax.checkpoint(one, policy=policy), x, given)[0]

    def gradients(run: Any) -> Any:
        return jax.jit(jax.grad(lambda given: jnp.square(ops.leave(run(ops.enter(x), given))).sum()))(twice)

    for a, b in zip(jax.tree.leaves(gradients(looped)), jax.tree.leaves(gradients(unrolled)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_what_the_kernels_refuse_runs_as_xla_operations(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane_blocks, "block", lambda *_: pytest.fail("ran through the kernels"))
    x, conv1, w = arguments("block", 3, (2, 2, 4))
    grn = dataclasses.replace(w, grn_gamma=jnp.ones(R), grn_beta=jnp.ones(R))
    ops = LaneOps()
    tell_once.cache_clear()
    for _ in range(2):
        y = ops.leave(ops.block(ops.enter(x), conv1, grn, residual=True))
    np.testing.assert_allclose(y, LocalOps().block(x, conv1, grn, residual=True), atol=1e-4)
    assert sum("global response" in message for message in caplog.messages) == 1
    kind = BlockKind("block", C, R, C, 3)
    y = ops.leave(LaneOps(refused=frozenset({kind})).block(ops.enter(x), conv1, w, residual=True))
    np.testing.assert_allclose(y, LocalOps().block(x, conv1, w, residual=True), atol=1e-4)


# An up block's rows are short where they go in; where they come out they are twice as long.
@pytest.mark.parametrize("kind, extents", [("block", (1, 2, 130)), ("down", (2, 2, 130)), ("up", (1, 1, 65))])
def test_rows_that_are_too_long_run_as_xla_operations(
    kind: str, extents: tuple[int, int, int], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pl, "pallas_call", lambda *_, **__: pytest.fail("ran through the kernels"))
    tell_once.cache_clear()
    options = {"residual": True} if kind == "block" else {}
    (y, (dx, *_)), (expected, (gradient, *_)) = (
        with_gradients(kind, ops, arguments(kind, 3, extents), **options) for ops in (LaneOps(), LocalOps("tpu"))
    )
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(dx, gradient, rtol=1e-5, atol=1e-4)
    assert any("rows of more than 128" in message for message in caplog.messages)
