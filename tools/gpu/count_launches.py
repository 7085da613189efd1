"""Count the launches of a MedNeXt's blocks and the bytes that they move, as XLA compiles them for an H100.

    python -m tools.gpu.count_launches --variant L --kernel-size 5 --patch 128 --only down

The GPU need not be there; jax-cuda12-plugin and jax-cuda12-pjrt must. Each launch's inputs and outputs count whole and
once: what a kernel skips or reads again is not seen, nor which kernels of XLA's a GPU would find the fastest.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import jax

from mednext_jax.model.config import MedNeXtConfig
from tools import hlo
from tools.gpu.cases import cases

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


def h100() -> jax.Device:
    """The device to compile for; from now on kernels are compiled for its compute capability."""
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")  # nothing runs
    jax.devices()  # finds the plugins
    (device,) = topologies.get_topology_desc("", "cuda", topology="1x1x1", target_config=H100).devices
    from jax_triton import triton_lib

    triton_lib.triton_kernel_call_lib.get_compute_capability = lambda device: 90
    return device


def compiled_text(function: Callable[..., Any], arguments: Any, device: jax.Device) -> str:
    """The program of `function` for arguments of these shapes, as XLA compiled it for `device`."""
    here = jax.sharding.SingleDeviceSharding(device)
    given = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here), arguments)
    return jax.jit(function).trace(*given).lower(lowering_platforms=("cuda",)).compile().as_text()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="L", choices=list("SBML"))
    parser.add_argument("--kernel-size", type=int, default=5)
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--only", default="", help="blocks whose name contains this")
    options = parser.parse_args()
    device = h100()
    config = MedNeXtConfig.variant(options.variant, kernel_size=options.kernel_size)
    for case in cases(config, (options.patch,) * 3, options.batch):
        if options.only not in case.name:
            continue
        for what, function, arguments in (
            ("forward", case.forward, case.arguments()),
            ("forward + backward", case.forward_and_backward, (case.output, *case.arguments())),
        ):
            program = hlo.instructions(compiled_text(function, arguments, device))
            moved = hlo.bytes_moved(program) / 1e6
            print(f"{case.name} x{case.count} {what}: {hlo.launches(program)} launches, {moved:.1f} MB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
