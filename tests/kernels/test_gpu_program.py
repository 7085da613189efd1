"""What XLA makes of the network over the fused kernels for an H100; needs jax-cuda12-plugin but no GPU."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.kernels.another_process import run_python

pytest.importorskip("jax_cuda12_plugin")  # jax-triton cannot be imported without
pytest.importorskip("jax_triton")

# A device that XLA compiles for without having it: what its passes ask of an H100.
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 } core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84942979072
  name: "NVIDIA H100 80GB HBM3"
  driver_version: "12.8.0" runtime_version: "12.8.0" compile_time_toolkit_version: "12.8.0" dnn_version: "9.10.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""

PROGRAM = """
import sys
import jax, jax.numpy as jnp, jax_plugins.xla_cuda12
from jax.experimental import topologies
jax_plugins.xla_cuda12.initialize()
(device,) = topologies.get_topology_desc("", "cuda", topology="1x1x1", target_config=sys.argv[1]).devices
from jax_triton import triton_lib
triton_lib.triton_kernel_call_lib.get_compute_capability = lambda device: 90
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.model.mednext import MedNeXt
from mednext_jax.kernels.channels_first import ChannelsFirstOps
config = MedNeXtConfig.variant("S", kernel_size=3, dtype="bfloat16", block_counts=(1,) * 9)
net = MedNeXt(config, ChannelsFirstOps())
x = jax.ShapeDtypeStruct((1, 64, 64, 64, 1), jnp.float32)
params = jax.eval_shape(net.init, jax.random.key(0), x)
here = jax.sharding.SingleDeviceSharding(device)
arguments = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here), (params, x))
lowered = jax.jit(net.apply).trace(*arguments).lower(lowering_platforms=("cuda",))
print(lowered.compile().as_text())
"""


@pytest.mark.slow
def test_no_activation_is_copied_or_transposed_on_a_gpu(tmp_path: Path) -> None:
    done = run_python("-c", PROGRAM, H100, JAX_COMPILATION_CACHE_DIR=str(tmp_path))
    kernels = re.findall(r'custom_call_target="triton_kernel_call"', done.stdout)
    # A convolution, the norm's fold and an MLP in each of nine blocks and eight between the levels; not every MLP.
    assert len(kernels) > 40, done.stderr[-2000:]
    moved = re.findall(r"= \w+\[([\d,]+)\]\S* (?:copy|transpose)\(", done.stdout)
    assert not [shape for shape in moved if shape.count(",") == 4]
