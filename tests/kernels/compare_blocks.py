"""The network's blocks by two classes of operations: arguments, every output and gradient of both, their distance."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mednext_jax.ops.local import LocalOps
from mednext_jax.ops.mlp import MLPWeights
from mednext_jax.ops.split import WHOLE

C, E = 2, 4  # channels of a block, and behind a block that changes them
NORMAL = jax.random.normal


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


def block_arguments(
    kind: str, k: int, extents: tuple[int, int, int], n: int = 2, res_conv: bool = True, *, r: int
) -> tuple[Any, ...]:
    """x (n, d, h, w, c) with a mean far from 0, which a careless variance would lose, and the weights.

    r: hidden width.
    """
    keys = jax.random.split(jax.random.key(k), 5)
    e = C if kind == "block" else E
    x = 5 + NORMAL(keys[0], (n, *extents, C))
    conv1 = NORMAL(keys[1], (k, k, k, C)) * k**-1.5, NORMAL(keys[2], (C,))
    if kind == "block":
        return x, conv1, weights(keys[3], C, r, e)
    beside = (NORMAL(keys[4], (C, e)), jnp.arange(1.0, e + 1)) if res_conv else None
    skip = (NORMAL(keys[0], (n, *(2 * m for m in extents), e)),) if kind == "up" else ()
    return x, conv1, weights(keys[3], C, r, e), beside, *skip


def with_gradients(kind: str, ops: LocalOps, arguments: tuple[Any, ...], **options: Any) -> Any:
    name = kind if kind == "block" else f"{kind}_block"

    def block(x: jax.Array, *rest: Any) -> jax.Array:
        x = ops.enter(x)
        if kind == "up":
            rest = (*rest[:-1], ops.enter(rest[-1]))
        return ops.leave(getattr(ops, name)(x, *rest, **options))

    def both(arguments: Any) -> Any:
        y, pull = jax.vjp(block, *arguments)
        return y, pull(NORMAL(jax.random.key(9), y.shape).astype(y.dtype))

    # Mesh axes of one device: a part that is the whole, with whatever halo it is given.
    axes = tuple(name for name in options.get("split", WHOLE) if name)
    if axes:
        mesh = jax.make_mesh((1,) * len(axes), axes, axis_types=(jax.sharding.AxisType.Auto,) * len(axes))
        both = jax.shard_map(both, mesh=mesh, in_specs=jax.P(), out_specs=jax.P(), check_vma=False)
    return jax.jit(both)(arguments)


def check_block(
    kind: str,
    arguments: tuple[Any, ...],
    tolerance: float,
    ops: tuple[LocalOps, LocalOps],
    **options: Any,
) -> None:
    """The second of `ops` against the first: relative L2 of the output and of each gradient below the tolerance."""
    expected, found = (with_gradients(kind, one, arguments, **options) for one in ops)
    leaves = jax.tree_util.tree_leaves_with_path(expected)
    for (path, want), got in zip(leaves, jax.tree.leaves(found), strict=True):
        name = jax.tree_util.keystr(path)
        if name == "[1][1][1]":
            # The convolution's bias: the norm removes it, so its gradient is 0; XLA's is what rounding left.
            assert not np.any(got)
            continue
        error = jnp.linalg.norm((got - want).ravel()) / jnp.linalg.norm(want.ravel())
        assert error < tolerance, (name, float(error))
