"""The fused blocks, every output and gradient, against the XLA operations in float32, in Triton's interpreter."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("triton")

from mednext_jax.kernels import convolve, fused_blocks, norm_mlp, norms
from mednext_jax.kernels.channels_first import ChannelsFirstOps
from mednext_jax.kernels.launch import launch
from mednext_jax.kernels.self_check import with_gradients as with_gradients_of
from mednext_jax.kernels.tuned_tiles import TILES
from mednext_jax.ops.local import LocalOps
from mednext_jax.ops.mlp import MLPWeights
from mednext_jax.ops.split import WHOLE, halo_of
from tests.kernels.compare_blocks import NORMAL, C, E, block_arguments, check_block, weights

pytestmark = pytest.mark.usefixtures("interpreter", "quickly_compiled")

BATCH, R = 2, 4
# Float32 sums in another order; those of biases' gradients cancel to a hundredth of their terms.
EXACT = 3e-5
# The kernels' GELU is a fit, off by up to 3e-5.
FIT = 3e-4
arguments = functools.partial(block_arguments, r=R)
check = functools.partial(check_block, ops=(LocalOps(), ChannelsFirstOps()))


@pytest.fixture
def small_mlp_tiles(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Tiles that let the fused norm and MLP run at the channels of these tests; 16 voxels leave a tail."""
    sizes = {"voxels": 16, "hidden": 2, "warps": 4, "stages": 1}
    for e in (C, E):
        monkeypatch.setitem(TILES, ("mlp", C, e), sizes)
        monkeypatch.setitem(TILES, ("mlp_input", C, e), sizes)
        monkeypatch.setitem(TILES, ("mlp_weights", C, e), {**sizes, "programs": 2})
    return monkeypatch


# 6 and 10 are not multiples of a tile: such extents occur below patches of 96 and 160.
@pytest.mark.parametrize(
    "k, extents", [(3, (3, 2, 10)), (5, (2, 3, 6)), pytest.param(7, (2, 3, 6), marks=pytest.mark.slow)]
)
def test_block(k: int, extents: tuple[int, int, int]) -> None:
    check("block", arguments("block", k, extents), EXACT, residual=True)


# The coarse grid's extents may be odd.
@pytest.mark.parametrize("kind, k, extents", [("down", 5, (2, 4, 12)), ("down", 3, (6, 2, 10)), ("up", 3, (2, 1, 6))])
def test_resampling_block(kind: str, k: int, extents: tuple[int, int, int]) -> None:
    check(kind, arguments(kind, k, extents), EXACT)


def test_blocks_without_residual() -> None:
    check("block", arguments("block", 3, (2, 2, 4)), EXACT, residual=False)
    check("up", arguments("up", 3, (1, 2, 3), res_conv=False), EXACT)
    check("down", arguments("down", 3, (2, 4, 6), res_conv=False), EXACT)


def test_a_down_block_s_residual_in_chunks_of_channels(small_mlp_tiles: pytest.MonkeyPatch) -> None:
    small_mlp_tiles.setitem(TILES, ("mlp", C, E), {**TILES["mlp", C, E], "hidden": 1})
    small_mlp_tiles.setattr("mednext_jax.kernels.tile_sizes._NARROWEST", 1)
    check("down", arguments("down", 3, (6, 2, 10)), FIT)


@pytest.mark.usefixtures("small_mlp_tiles")
@pytest.mark.parametrize("kind, k, extents", [("block", 3, (2, 3, 6)), ("down", 3, (4, 2, 12)), ("up", 3, (1, 2, 5))])
def test_fused_mlp(kind: str, k: int, extents: tuple[int, int, int]) -> None:
    options = {"residual": True} if kind == "block" else {}
    check(kind, arguments(kind, k, extents), FIT, **options)


@pytest.mark.parametrize("kind, extents", [("block", (3, 3, 6)), ("up", (1, 2, 5))])
def test_fused_mlp_with_backward_in_one_pass(
    kind: str, extents: tuple[int, int, int], small_mlp_tiles: pytest.MonkeyPatch
) -> None:
    for e in (C, E):
        small_mlp_tiles.setitem(TILES, ("mlp_back", C, e), TILES["mlp_weights", C, e])
    options = {"residual": True} if kind == "block" else {}
    check(kind, arguments(kind, 3, extents), FIT, **options)


@pytest.mark.usefixtures("small_mlp_tiles")
def test_a_down_block_s_large_arrays_are_its_kernels_alone() -> None:
    """The residual and its gradient pass through no memory of their own."""
    x, *rest = arguments("down", 3, (4, 2, 12))
    x = jnp.moveaxis(x, -1, 1)
    g = jnp.ones((BATCH, E, 2, 1, 6))
    run = with_gradients_of(fused_blocks.down_block)
    equations = list(inner_equations(jax.make_jaxpr(run)(g, x, *rest).jaxpr))
    large = {str(e.primitive) for e in equations for out in e.outvars if out.aval.size in (x.size, g.size)}
    assert large == {"pure_callback"}


def inner_equations(jaxpr: Any) -> Iterator[Any]:
    """The equations that hold no others."""
    for equation in jaxpr.eqns:
        held = [getattr(value, "jaxpr", value) for value in equation.params.values()]
        held = [value for value in held if hasattr(value, "eqns")]
        for one in held:
            yield from inner_equations(one)
        if not held:
            yield equation


def test_block_on_a_part_with_its_halo() -> None:
    """Along an axis whose neighbours are there the convolution is 'valid', and gradients reach the halo."""
    check("block", arguments("block", 3, (4, 5, 6)), EXACT, residual=True, split=("space", "height", None))
    check("block", arguments("block", 3, (2, 2, 8)), EXACT, residual=True, split=(None, None, "width"))


def test_block_under_remat_equals_block_without() -> None:
    ops = ChannelsFirstOps()
    x, conv1, w = arguments("block", 3, (2, 2, 4))

    def loss(w: MLPWeights) -> jax.Array:
        return jnp.square(ops.block(ops.enter(x), conv1, w, residual=True)).sum()

    policy = jax.checkpoint_policies.save_only_these_names("dw")
    plain, kept = jax.grad(loss)(w), jax.grad(jax.checkpoint(loss, policy=policy))(w)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(kept), strict=True):
        np.testing.assert_array_equal(a, b)


def test_moments_keep_a_small_variance_beside_a_large_mean() -> None:
    x = 1000 + 0.01 * NORMAL(jax.random.key(0), (1, 1, 4, 4, 8))
    identity = jnp.zeros((3, 3, 3, 1)).at[1, 1, 1].set(1)
    _, partial = convolve.conv(x, identity, jnp.zeros(1), halo_of(WHOLE))
    norm = norms.fold(partial, jnp.ones(1), jnp.zeros(1), WHOLE)
    variance = np.asarray(x, np.float64).var()
    # Deviation = 1 / sqrt(variance + 1e-5); sums of squares in float32 would be off by 1e6 * 1e-7 = 0.1, not 1e-5.
    assert float(norm.deviation[0, 0]) == pytest.approx((variance + 1e-5) ** -0.5, rel=1e-3)


def test_sums_of_the_backward_pass_in_memory_are_of_the_same_rounded_values() -> None:
    """Else a channel whose mean is far from 0 multiplies the roundings' sum by that mean in the gradients."""
    u = jnp.ones((BATCH, C, 4, 4, 8), jnp.bfloat16)
    given = (jnp.full((BATCH, C), value) for value in (1.0, 0.5, 0.0, 1.0))
    g = NORMAL(jax.random.key(0), (BATCH, E, 4, 4, 8), jnp.bfloat16)
    _, sums = norm_mlp.backward(u, norms.Norm(*given, jnp.float32(128)), weights(jax.random.key(1), C, R, E), g, False)
    # Of ones, u^T dz is the sum of dz: 128 float32 values of size 1 in another order.
    np.testing.assert_allclose(sums.u_dz, jnp.broadcast_to(sums.dz[:, None], sums.u_dz.shape), atol=128 * 1e-6)


def test_unsupported_blocks_run_as_xla_operations(caplog: pytest.LogCaptureFixture) -> None:
    x, conv1, w = arguments("block", 3, (2, 2, 4))
    grn = dataclasses.replace(w, grn_gamma=jnp.ones(R), grn_beta=jnp.ones(R))
    ops = ChannelsFirstOps()
    for _ in range(2):
        y = ops.leave(ops.block(ops.enter(x), conv1, grn, residual=True))
    expected = LocalOps().block(x, conv1, grn, residual=True)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    assert sum("global response" in message for message in caplog.messages) == 1


def test_an_empty_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="empty grid"):
        launch(lambda: None, [], [], (0, 1))
