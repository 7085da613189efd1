"""The blocks through the TPU kernels, every output and gradient, against XLA in float32; Pallas interprets the kernels.

The interpreter keeps memory as a TPU has it: what nobody wrote is not a number, copies happen when they are waited for.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl

from mednext_jax.kernels.mosaic import lane_ops
from mednext_jax.kernels.mosaic.lane_ops import LaneOps
from mednext_jax.ops.local import LocalOps
from mednext_jax.ops.mlp import MLPWeights
from mednext_jax.ops.split import WHOLE

pytestmark = pytest.mark.core

C, R, E = 2, 6, 4
NORMAL = jax.random.normal
FIT = 3e-4  # the kernels' GELU is a fit


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pallas's interpreter of TPU kernels, in float32, for so few channels."""
    monkeypatch.setattr(lane_ops, "COMPUTE_TYPE", jnp.float32)
    monkeypatch.setattr(lane_ops, "_SUBLANES", 1)
    monkeypatch.setattr(pl, "pallas_call", functools.partial(pl.pallas_call, interpret=True))
    yield


def weights(key: jax.Array, c: int, r: int, e: int) -> MLPWeights:
    keys = jax.random.split(key, 6)
    return MLPWeights(
        norm_scale=1 + 0.3 * NORMAL(keys[0], (c,)),
        norm_bias=0.3 * NORMAL(keys[1], (c,)),
        expand_kernel=NORMAL(keys[2], (c, r)),
        expand_bias=0.3 * NORMAL(keys[3], (r,)),
        compress_kernel=NORMAL(keys[4], (r, e)),
        compress_bias=0.3 * NORMAL(keys[5], (e,)),
    )


def arguments(kind: str, k: int, extents: tuple[int, int, int], n: int = 2, res_conv: bool = True) -> tuple[Any, ...]:
    """x (n, d, h, w, c) with a mean far from 0, and the weights."""
    keys = jax.random.split(jax.random.key(k), 5)
    e = C if kind == "block" else E
    x = 5 + NORMAL(keys[0], (n, *extents, C))
    conv1 = NORMAL(keys[1], (k, k, k, C)) * k**-1.5, NORMAL(keys[2], (C,))
    if kind == "block":
        return x, conv1, weights(keys[3], C, R, e)
    beside = (NORMAL(keys[4], (C, e)), jnp.arange(1.0, e + 1)) if res_conv else None
    skip = (NORMAL(keys[0], (n, *(2 * m for m in extents), e)),) if kind == "up" else ()
    return x, conv1, weights(keys[3], C, R, e), beside, *skip


def with_gradients(kind: str, ops: LocalOps, arguments: tuple[Any, ...], **options: Any) -> Any:
    name = kind if kind == "block" else f"{kind}_block"

    def run(x: jax.Array, *rest: Any) -> jax.Array:
        if kind == "up":
            rest = (*rest[:-1], ops.enter(rest[-1]))
        return ops.leave(getattr(ops, name)(ops.enter(x), *rest, **options))

    def both(arguments: Any) -> Any:
        y, pull = jax.vjp(run, *arguments)
        return y, pull(NORMAL(jax.random.key(9), y.shape))

    # Mesh axes of one device: a part that is the whole, with whatever halo it is given.
    axes = tuple(name for name in options.get("split", WHOLE) if name)
    if axes:
        mesh = jax.make_mesh((1,) * len(axes), axes, axis_types=(jax.sharding.AxisType.Auto,) * len(axes))
        both = jax.shard_map(both, mesh=mesh, in_specs=jax.P(), out_specs=jax.P(), check_vma=False)
    return jax.jit(both)(arguments)


def check(kind: str, arguments: tuple[Any, ...], **options: Any) -> None:
    expected = with_gradients(kind, LocalOps(), arguments, **options)
    found = with_gradients(kind, LaneOps(), arguments, **options)
    leaves = jax.tree_util.tree_leaves_with_path(expected)
    for (path, want), got in zip(leaves, jax.tree.leaves(found), strict=True):
        name = jax.tree_util.keystr(path)
        if name == "[1][1][1]":
            # The convolution's bias: the norm removes it, so its gradient is 0; XLA's is what rounding left.
            assert not np.any(got)
            continue
        error = jnp.linalg.norm((got - want).ravel()) / jnp.linalg.norm(want.ravel())
        assert error < FIT, (name, float(error))


# Rows that fill their lanes, and such that do not; 6 and 10 occur below patches of 96 and 160.
@pytest.mark.parametrize("n, extents", [(1, (2, 3, 10)), (3, (1, 16, 8)), (2, (2, 3, 65))])
def test_block(n: int, extents: tuple[int, int, int]) -> None:
    check("block", arguments("block", 3, extents, n), residual=True)


@pytest.mark.parametrize("kind, extents", [("down", (2, 6, 20)), ("up", (1, 3, 6))])
def test_resampling_block(kind: str, extents: tuple[int, int, int]) -> None:
    check(kind, arguments(kind, 3, extents))


def test_blocks_without_residual() -> None:
    check("block", arguments("block", 3, (2, 2, 4)), residual=False)
    check("up", arguments("up", 3, (1, 2, 3), res_conv=False))
    check("down", arguments("down", 3, (2, 4, 6), res_conv=False))


def test_block_on_a_part_with_its_halo() -> None:
    """Along an axis whose neighbours are there the convolution is 'valid', and gradients reach the halo."""
    check("block", arguments("block", 3, (4, 3, 6)), residual=True, split=("space", None, None))
    check("block", arguments("block", 3, (4, 5, 6)), residual=True, split=("space", "height", None))
