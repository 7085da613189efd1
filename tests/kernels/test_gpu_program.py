"""What XLA makes of the network over the fused kernels for an H100; needs jax-cuda12-plugin but no GPU."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.kernels.another_process import run_python

pytest.importorskip("jax_cuda12_plugin")  # jax-triton cannot be imported without
pytest.importorskip("jax_triton")

PROGRAM = """
import jax, jax.numpy as jnp
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.model.mednext import MedNeXt
from mednext_jax.kernels.channels_first import ChannelsFirstOps
from tools.gpu.count_launches import compiled_text, h100
config = MedNeXtConfig.variant("S", kernel_size=3, dtype="bfloat16", block_counts=(1,) * 9)
net = MedNeXt(config, ChannelsFirstOps())
x = jax.ShapeDtypeStruct((1, 64, 64, 64, 1), jnp.float32)
params = jax.eval_shape(net.init, jax.random.key(0), x)
print(compiled_text(net.apply, (params, x), h100()))
"""


@pytest.mark.slow
def test_no_activation_is_copied_or_transposed_on_a_gpu(tmp_path: Path) -> None:
    done = run_python("-c", PROGRAM, JAX_COMPILATION_CACHE_DIR=str(tmp_path))
    kernels = re.findall(r'custom_call_target="triton_kernel_call"', done.stdout)
    # A convolution, the norm's fold and an MLP in each of nine blocks and eight between the levels; not every MLP.
    assert len(kernels) > 40, done.stderr[-2000:]
    moved = re.findall(r"= \w+\[([\d,]+)\]\S* (?:copy|transpose)\(", done.stdout)
    assert not [shape for shape in moved if shape.count(",") == 4]
