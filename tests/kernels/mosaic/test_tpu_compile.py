"""The TPU kernels of kinds of blocks, compiled for chips that are not there: what Mosaic refuses shows here."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.kernels.another_process import run_python

pytestmark = pytest.mark.core

COMPILE = """
import re
import sys
import jax, jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from tools.aot_compile import devices_of
from mednext_jax.kernels import self_check
from mednext_jax.ops.block_kind import BlockKind

topology, block, c, r, e, k, d, h, w = [x if x.isalpha() or ":" in x else int(x) for x in sys.argv[1:]]
place = SingleDeviceSharding(devices_of(topology)[0])
kind = BlockKind(block, c, r, e, k)
self_check.EXTENTS = {block: (d, h, w)}
g, *arguments = jax.tree.map(
    lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), self_check.shapes(kind, jnp.bfloat16)
)
text = jax.jit(self_check.with_gradients(self_check.fused(kind, "tpu"))).lower(g, *arguments).compile().as_text()
names = ("norm_mlp", "norm_mlp_gradients", "depthwise", "depthwise_gradient")
# A name is inside the transformations that it went through: transpose(jvp(depthwise_gradient))/pallas_call.
print("kernels", all(re.search(rf"\\b{name}\\)*/pallas_call", text) for name in names))
"""


def compile_elsewhere(cache: Path, script: str, *arguments: str) -> None:
    """Run a script that compiles and says whether the kernels are in the program, in a process of its own."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed")
    done = run_python("-c", script, *arguments, JAX_COMPILATION_CACHE_DIR=str(cache))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "kernels True" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "topology, kind, extents",
    [
        ("v5e:2x4", ("block", 32, 96, 32, 5), (7, 9, 12)),
        ("v5e:2x4", ("block", 32, 64, 32, 3), (8, 16, 128)),
        ("v5e:2x4", ("block", 64, 256, 64, 5), (4, 16, 64)),
        ("v5e:2x4", ("block", 128, 1024, 128, 5), (4, 16, 32)),
        ("v5e:2x4", ("block", 256, 2048, 256, 5), (4, 16, 16)),
        ("v5e:2x4", ("block", 512, 4096, 512, 5), (8, 8, 8)),
        ("v5e:2x4", ("down", 32, 128, 64, 5), (5, 7, 12)),
        ("v5e:2x4", ("up", 64, 256, 32, 5), (5, 7, 12)),
        ("v5p:2x2x2", ("block", 32, 96, 32, 5), (128, 128, 128)),
        ("v5p:2x2x2", ("up", 64, 256, 32, 5), (64, 64, 64)),
    ],
)
def test_a_kind_compiles_with_all_its_gradients(
    topology: str, kind: tuple[str, int, int, int, int], extents: tuple[int, int, int], tmp_path: Path
) -> None:
    compile_elsewhere(tmp_path, COMPILE, topology, *map(str, kind), *map(str, extents))


# The largest weights, one sample: their gradients go from the kernel straight into the loop's stacked ones.
LOOP = """
import jax, jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from tools.aot_compile import devices_of
from mednext_jax.kernels.mosaic.lane_ops import LaneOps
from mednext_jax.model.blocks import MedNeXtBlock

place = SingleDeviceSharding(devices_of("v5e:2x4")[0])
ops, x = LaneOps(), jax.ShapeDtypeStruct((1, 8, 8, 8, 512), jnp.bfloat16)
plain, block = (MedNeXtBlock(512, 512, 8, 5, **given) for given in ({}, {"ops": ops}))
params = jax.eval_shape(lambda: plain.init(jax.random.key(0), jnp.zeros(x.shape, x.dtype)))["params"]
one = jax.checkpoint(lambda x, p: block.apply({"params": p}, x))

def loss(params, x):
    y = jax.lax.scan(lambda x, p: (one(x, p), None), ops.enter(x), params)[0]
    return ops.leave(y).astype(jnp.float32).sum()

many = jax.tree.map(lambda a: jax.ShapeDtypeStruct((2, *a.shape), a.dtype, sharding=place), params)
x = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
print("kernels", "norm_mlp_gradients/pallas_call" in jax.jit(jax.grad(loss)).lower(many, x).compile().as_text())
"""


@pytest.mark.slow
def test_a_loop_over_blocks_compiles(tmp_path: Path) -> None:
    compile_elsewhere(tmp_path, LOOP)
