"""The network over the fused kernels, each volume split over two devices, against one device."""

from __future__ import annotations

import pytest

from tests.kernels.another_process import run_python

pytest.importorskip("triton")
pytest.importorskip("torch")  # the interpreter's tensors

PROGRAM = """
import jax, numpy as np
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.model.mednext import MedNeXt
from mednext_jax.kernels.channels_first import ChannelsFirstOps
from mednext_jax.parallel.mesh import make_mesh
from mednext_jax.parallel.network import spread
from tests.kernels.interpreter import interpreted_kernels

config = MedNeXtConfig(base_channels=2, block_counts=(1,) * 9, deep_supervision=True, remat="dw")
x = jax.random.normal(jax.random.key(0), (1, 32, 16, 16, 1))
params = jax.jit(MedNeXt(config).init)(jax.random.key(1), x)["params"]

def loss_and_gradients(apply):
    return jax.jit(jax.value_and_grad(lambda params: sum((head**2).mean() for head in apply(params, x))))(params)

with interpreted_kernels():
    loss, gradients = loss_and_gradients(spread(config, make_mesh(1, 2, 1), ChannelsFirstOps()))
loss_1, gradients_1 = loss_and_gradients(lambda params, x: MedNeXt(config).apply({"params": params}, x))
found, expected = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(g)]) for g in (gradients, gradients_1))
print("loss", abs(float(loss / loss_1) - 1))
print("gradients", np.linalg.norm(found - expected) / np.linalg.norm(expected))
"""


@pytest.mark.slow
def test_the_network_over_the_kernels_is_split_like_any() -> None:
    # Threads of JAX's CPU client: with one a core, devices that wait for each other may leave callbacks none.
    done = run_python("-c", PROGRAM, TRITON_INTERPRET="1", JAX_NUM_CPU_DEVICES="2", NPROC="16")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    error = {name: float(value) for name, value in (line.split() for line in done.stdout.splitlines())}
    # Float32 sums in another order; the bottleneck's norm, over two voxels here, makes much of rounding.
    assert error["loss"] < 1e-5 and error["gradients"] < 1e-3
