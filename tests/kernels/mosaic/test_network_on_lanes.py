"""The network over the TPU kernels, in Pallas's interpreter: on one device, and each volume split over two or four."""

from __future__ import annotations

import pytest

from tests.kernels.another_process import run_python

PROGRAM = """
import functools, sys
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import pallas as pl
from mednext_jax.kernels.mosaic import lane_ops
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.model.mednext import MedNeXt
from mednext_jax.ops.local import LocalOps
from mednext_jax.parallel.mesh import make_mesh
from mednext_jax.parallel.network import spread

lane_ops.COMPUTE_TYPE, lane_ops._SUBLANES = jnp.float32, 1
plain_call = pl.pallas_call
space, height = map(int, sys.argv[1:])
# Two blocks of a stage are a loop.
config = MedNeXtConfig(base_channels=2, block_counts=(2, *(1,) * 8), deep_supervision=True, remat="dw")
x = jax.random.normal(jax.random.key(0), (1, 32, 32, 16, 2))
config = MedNeXtConfig(**{**vars(config), "in_channels": 2})
params = jax.jit(MedNeXt(config).init)(jax.random.key(1), x)["params"]
options = {"xla_backend_optimization_level": 0}

def loss_and_gradients(apply):
    gradients = jax.jit(jax.value_and_grad(lambda params: sum((head**2).mean() for head in apply(params, x))))
    return gradients.lower(params).compile(options)(params)

pl.pallas_call = functools.partial(plain_call, interpret=True)
loss, gradients = loss_and_gradients(spread(config, make_mesh(1, space, height), lane_ops.LaneOps()))
pl.pallas_call = plain_call
plain = MedNeXt(config, LocalOps("tpu"))
loss_1, gradients_1 = loss_and_gradients(lambda params, x: plain.apply({"params": params}, x))
found, expected = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(g)]) for g in (gradients, gradients_1))
print("loss", abs(float(loss / loss_1) - 1))
print("gradients", np.linalg.norm(found - expected) / np.linalg.norm(expected))
"""


@pytest.mark.slow
@pytest.mark.parametrize("space, height", [(1, 1), (2, 1), (2, 2)])
def test_the_network_over_the_kernels_is_the_network(space: int, height: int) -> None:
    done = run_python("-c", PROGRAM, str(space), str(height), JAX_NUM_CPU_DEVICES=str(space * height))
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    error = {name: float(value) for name, value in (line.split() for line in done.stdout.splitlines())}
    # The kernels' GELU is a fit; the bottleneck's norm, over few voxels here, makes much of rounding.
    assert error["loss"] < 1e-4 and error["gradients"] < 3e-3
