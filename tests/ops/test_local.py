"""What a TPU's blocks leave out and keep in bfloat16."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mednext_jax.ops.local import LocalOps
from tests.kernels.compare_blocks import block_arguments, with_gradients

pytestmark = pytest.mark.core


def run(function: Any, arguments: Any) -> list[tuple[str, np.ndarray]]:
    """Output and gradients with their paths; LLVM's optimisation takes longer than these programs."""
    compiled = jax.jit(function).lower(arguments).compile({"xla_backend_optimization_level": 0})
    leaves = jax.tree_util.tree_leaves_with_path(compiled(arguments))
    return [(jax.tree_util.keystr(path), np.asarray(leaf, np.float64)) for path, leaf in leaves]


def arguments_in(dtype: Any, kind: str, extents: tuple[int, int, int]) -> Any:
    """Activations in `dtype`, bfloat16's values in any."""
    x, conv1, weights, *rest = block_arguments(kind, 3, extents, r=6)
    x, *rest = ((a.astype(jnp.bfloat16).astype(dtype) if isinstance(a, jax.Array) else a) for a in (x - 5, *rest))
    return x, conv1, weights, *rest


def both(kind: str, arguments: Any) -> list[tuple[str, np.ndarray]]:
    options = {"residual": True} if kind == "block" else {}
    return with_gradients(kind, LocalOps("tpu"), arguments, run, **options)


def with_large_bias(x: Any, conv1: Any, *rest: Any) -> Any:
    """Added in bfloat16, 1000 would leave steps of 4."""
    kernel, bias = conv1
    return x, (kernel, jnp.full_like(bias, 1000)), *rest


def test_the_norm_takes_the_bias_out_before_it_costs_digits() -> None:
    def block(arguments: Any) -> Any:
        return LocalOps("tpu").block(*arguments, residual=True)

    ((_, want),) = run(block, arguments_in(jnp.float32, "block", (2, 3, 5)))
    ((_, got),) = run(block, with_large_bias(*arguments_in(jnp.bfloat16, "block", (2, 3, 5))))
    assert np.linalg.norm(got - want) < 0.02 * np.linalg.norm(want)  # some roundings of 2^-9 through norm and MLP


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["block", "down", "up"])
def test_gradients_without_the_bias(kind: str) -> None:
    exact, found = (arguments_in(dtype, kind, (2, 4, 6)) for dtype in (jnp.float32, jnp.bfloat16))
    for (name, want), (_, got) in zip(both(kind, exact), both(kind, with_large_bias(*found)), strict=True):
        if name == "[1][1][1]":
            assert not got.any()
        else:  # and back
            assert np.linalg.norm(got - want) < 0.03 * np.linalg.norm(want), name


def test_the_bias_stays_where_it_counts_or_costs_nothing() -> None:
    x, conv1, group = arguments_in(jnp.bfloat16, "block", (1, 1, 2))
    layer = dataclasses.replace(group, norm="layer")
    tpu = LocalOps("tpu")
    assert not tpu.before_norm(x, conv1, group)[1].any()
    assert tpu.before_norm(x, conv1, layer) is conv1
    assert tpu.before_norm(x.astype(jnp.float32), conv1, group) is conv1
    for platform in ("cpu", "gpu", "rocm"):
        assert LocalOps(platform).before_norm(x, conv1, group) is conv1


def checkpointed(x: Any, conv1: Any, weights: Any) -> Any:
    block = functools.partial(LocalOps("tpu").block, residual=True)
    return jax.checkpoint(block, policy=jax.checkpoint_policies.save_only_these_names("dw"))(x, conv1, weights)


def test_recomputation_keeps_the_statistics(capsys: pytest.CaptureFixture[str]) -> None:
    for dtype, kept in (
        (jnp.bfloat16, ["bf16[2,2,3,5,2]", *["f32[2,1,1,1,2]"] * 2]),
        (jnp.float32, ["f32[2,2,3,5,2]"]),
    ):
        jax.ad_checkpoint.print_saved_residuals(checkpointed, *arguments_in(dtype, "block", (2, 3, 5)))
        lines = capsys.readouterr().out.splitlines()
        assert sorted(line.split(" ")[0] for line in lines if "from the arg" not in line) == kept


@pytest.mark.slow
def test_recomputation_changes_no_gradient() -> None:
    x, *rest = arguments_in(jnp.bfloat16, "block", (2, 3, 5))

    def gradients(arguments: Any) -> Any:
        y, pull = jax.vjp(checkpointed, *arguments)
        return y, pull(jnp.asarray(g, y.dtype))

    g = jax.random.normal(jax.random.key(9), x.shape)
    for (name, want), (_, got) in zip(both("block", (x, *rest)), run(gradients, (x, *rest)), strict=True):
        np.testing.assert_array_equal(got, want, err_msg=name)
