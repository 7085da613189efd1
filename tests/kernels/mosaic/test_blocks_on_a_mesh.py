"""Blocks through the TPU kernels, in Pallas's interpreter, on a volume that is split over two devices."""

from __future__ import annotations

import pytest

from tests.kernels.another_process import run_python

PROGRAM = """
import functools
import jax, jax.numpy as jnp
from jax.experimental import pallas as pl
from mednext_jax.kernels.mosaic import lane_ops
from mednext_jax.ops.local import LocalOps
from mednext_jax.parallel.mesh import make_mesh
from mednext_jax.parallel.sharded_ops import Layout, ShardedOps
from tests.kernels.mosaic.test_lane_blocks import arguments

lane_ops.COMPUTE_TYPE, lane_ops._SUBLANES = jnp.float32, 1
given = arguments("block", 3, (8, 4, 6))
layout = Layout((8, 4, 6), ("space", None, None), (2, 1, 1), 1)

def both(ops, x, conv1, weights):
    def run(x, kernel, weights):
        y = ops.enter(x)
        for _ in range(2):
            y = ops.block(y, (kernel, conv1[1]), weights, residual=True)
        return ops.leave(y)
    y, pull = jax.vjp(run, x, conv1[0], weights)
    return y, *pull(jnp.cos(7 * y))

def part(x, conv1, weights):
    y, dx, *rest = both(ShardedOps(layout=layout, local=lane_ops.LaneOps()), x, conv1, weights)
    return y, dx, *jax.lax.psum(rest, "space")

def once(function):
    return jax.jit(function).lower(*given).compile({"xla_backend_optimization_level": 0})(*given)

expected = once(functools.partial(both, LocalOps("tpu")))
pl.pallas_call = functools.partial(pl.pallas_call, interpret=True)
split, whole = jax.P("data", "space"), jax.P()
places = {"in_specs": (split, whole, whole), "out_specs": (split, split, whole, whole)}
found = once(jax.shard_map(part, mesh=make_mesh(1, 2, 1), check_vma=False, **places))
for want, got in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
    print(float(jnp.linalg.norm((got - want).ravel()) / jnp.linalg.norm(want.ravel())))
"""


@pytest.mark.slow
def test_blocks_of_a_split_volume_are_those_of_the_whole() -> None:
    """Halos, the norm's sums over both parts, and gradients that reach the neighbour's voxels."""
    done = run_python("-c", PROGRAM, JAX_NUM_CPU_DEVICES="2")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    errors = [float(line) for line in done.stdout.split()]
    # Of two blocks one after the other; the kernels' GELU is a fit.
    assert len(errors) == 9 and max(errors) < 2e-3
