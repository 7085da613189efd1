"""On any mesh the network, its gradients and a training step are those of one device."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mednext_jax.errors import InputError
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.model.mednext import MedNeXt
from mednext_jax.ops.local import LocalOps
from mednext_jax.parallel.mesh import make_mesh, over_samples, replicated
from mednext_jax.parallel.network import check_divides, layout_of, spread
from mednext_jax.train.loss import LossConfig, segmentation_loss
from mednext_jax.train.optimiser import OptimiserConfig, make_optimiser
from tools.comm_report import collectives, halo_bytes, table
from tools.hlo import instructions

pytestmark = pytest.mark.core

# The form with the shortest programs; which one a device runs does not change how they exchange.
OPS = LocalOps(platform="gpu")
SMALL = MedNeXtConfig(base_channels=4, block_counts=(1,) * 9, deep_supervision=True)
NETWORKS = {
    "k3": SMALL,
    "k5 grn": MedNeXtConfig.from_dict(
        {**SMALL.to_dict(), "grn": True, "encoder_kernel_size": 5, "decoder_kernel_size": 5}
    ),
    "S k3": MedNeXtConfig.variant("S", kernel_size=3, base_channels=8, deep_supervision=True),
    "S k5 grn": MedNeXtConfig.variant("S", kernel_size=5, base_channels=8, deep_supervision=True, grn=True),
}
NETWORKS |= {
    f"k3 {remat} {dtype}": MedNeXtConfig.from_dict({**SMALL.to_dict(), "remat": remat, "dtype": dtype})
    for remat, dtype in (("block", "float32"), ("dw", "bfloat16"))
}
MESHES = [(8, 1, 1), (4, 2, 1), (2, 4, 1), (1, 8, 1), (2, 2, 2), (1, 4, 2)]


def batch(size=32, samples=8):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(samples, size, size, size, 1)).astype(np.float32)
    return jnp.asarray(image), jnp.asarray(rng.random((samples, size, size, size)) < 0.2, jnp.int32)


@functools.cache
def parameters(name):
    """Random weights of the size of initial ones, nothing zero or one by construction; no program draws them."""
    init = functools.partial(MedNeXt(NETWORKS[name], OPS).init, jax.random.key(0))
    shapes = jax.eval_shape(init, jnp.zeros((1, 16, 16, 16, 1)))["params"]
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        kernel = rng.uniform(-1, 1, leaf.shape) / math.sqrt(math.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 0.0
        return jnp.asarray(rng.normal(0, 0.05, leaf.shape) + kernel + (path[-1].key == "scale"), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def training_step(name, mesh, ops=OPS):
    """(params, image, label) -> loss, gradient, new params; Dice over the whole batch."""
    optimiser, terms = make_optimiser(OptimiserConfig()), LossConfig(batch_dice=True)
    apply = spread(NETWORKS[name], mesh, ops)

    def step(params, image, label):
        loss, gradient = jax.value_and_grad(lambda p: segmentation_loss(apply(p, image), label, terms))(params)
        updates, _ = optimiser.update(gradient, optimiser.init(params), params)
        return loss, gradient, jax.tree.map(lambda p, u: p - 3e-4 * u, params, updates)

    return jax.jit(step, out_shardings=replicated(mesh))


def place(mesh, params, image, label):
    """As training has them: augmentation leaves a sample's patch on each of its devices."""
    return jax.device_put(
        (params, image, label),
        (replicated(mesh), NamedSharding(mesh, PartitionSpec(*mesh.axis_names)), over_samples(mesh)),
    )


@functools.cache
def on_one_device(name):
    mesh = make_mesh(devices=jax.devices()[:1])
    return jax.device_get(training_step(name, mesh)(*place(mesh, parameters(name), *batch())))


def distance(ours, theirs):
    """The largest over the arrays of |ours - theirs| / |theirs|;

    The bias of a depthwise convolution cannot change the result, because a norm follows: its gradient is rounding
    noise, and is measured against the whole gradient.
    """
    whole = math.sqrt(sum(float(np.sum(np.square(b))) for b in jax.tree.leaves(theirs)))
    worst = 0.0
    for (path, b), a in zip(jax.tree_util.tree_leaves_with_path(theirs), jax.tree.leaves(ours), strict=True):
        noise = [key.key for key in path[-2:]] == ["conv1", "bias"] and np.linalg.norm(b) < 1e-6 * whole
        worst = max(worst, float(np.linalg.norm(a - b)) / (whole if noise else float(np.linalg.norm(b))))
    return worst


def check(name, shape, ops=OPS):
    """The step on a mesh gives the numbers of one device, and moves little more than it must."""
    mesh = make_mesh(*shape)
    arguments = place(mesh, parameters(name), *batch())
    compiled = training_step(name, mesh, ops).lower(*arguments).compile()
    check_collectives(name, mesh, collectives(instructions(compiled.as_text())))
    loss, gradient, params = jax.device_get(compiled(*arguments))
    loss_1, gradient_1, params_1 = on_one_device(name)
    errors = abs(loss - loss_1) / loss_1, distance(gradient, gradient_1), distance(params, params_1)
    print(f"{name} on {shape}: loss {errors[0]:.1e}, gradient {errors[1]:.1e}, params {errors[2]:.1e}")
    if NETWORKS[name].dtype == "float32":
        assert max(errors) < 1e-5  # float32 sums over other groups of voxels
    else:
        # A sum that differs in its last bit rounds to the next bfloat16 here and there: 2^-9 of a value, through all
        # layers and back. Arrays whose gradient is all rounding tell nothing: the gradient is compared as a whole.
        flat, flat_1 = (np.concatenate([np.ravel(g) for g in jax.tree.leaves(t)]) for t in (gradient, gradient_1))
        whole = np.linalg.norm(flat - flat_1) / np.linalg.norm(flat_1)
        print(f"the whole gradient: {whole:.1e}")
        assert errors[0] < 2**-9 and whole < 0.05 and errors[2] < 1e-2


def check_collectives(name, mesh, found):
    """Only gradients, norm sums, halos, and maps of levels that every device holds whole."""
    config, (image, _) = NETWORKS[name], batch()
    layout = layout_of(config, mesh, image.shape[1:4])
    samples = image.shape[0] // mesh.shape["data"]
    least = halo_bytes(dataclasses.replace(config, dtype="float32"), layout, samples)  # CPUs exchange no half precision
    print(f"{name} on {mesh.axis_sizes}\n{table(found, least)}")
    maps = [
        4 * samples * math.prod(n >> level for n in layout.extents) * config.stage_channels[level]
        for level in range(5)
        if layout.split(level) != layout.names
    ]
    gradients = sum(p.nbytes for p in jax.tree.leaves(parameters(name)))
    largest = {"all-reduce": gradients, "all-gather": max(maps, default=0), "reduce-scatter": max(maps, default=0)}
    for one in found:
        assert one.kind == "collective-permute" or one.bytes <= largest[one.kind], one
    assert sum(one.bytes for one in found if one.kind == "collective-permute") <= 1.2 * least


# One mesh splits both axes, and has parts with a neighbour on either side. The others take as long again each, and are
# run with the slow tests; test_parameters.py shares a batch.
@pytest.mark.parametrize("shape", [m if m == (1, 4, 2) else pytest.param(m, marks=pytest.mark.slow) for m in MESHES])
def test_k5_with_grn_and_deep_supervision(shape):
    check("k5 grn", shape)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["k3", "S k3", "S k5 grn"])
@pytest.mark.parametrize("shape", MESHES)
def test_networks(name, shape):
    check(name, shape)


@pytest.mark.slow
def test_forms_for_tpus():
    check("S k3", (2, 2, 2), LocalOps(platform="tpu"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NETWORKS if "float" in name])
def test_recomputation_and_half_precision(name):
    check(name, (2, 4, 1))


def test_levels_are_split_while_a_part_holds_the_planes_of_a_halo():
    config = MedNeXtConfig.variant("S", kernel_size=5)
    layout = layout_of(config, make_mesh(1, 4, 2), (64, 32, 64))
    assert [layout.split(level)[:2] for level in range(5)] == [
        ("space", "height"),  # 16 planes of depth, 16 of height
        ("space", "height"),
        ("space", "height"),  # 4 and 4
        ("space", "height"),  # 2 and 2
        (None, None),  # 1 and 1
    ]


@pytest.mark.parametrize(
    ("mesh", "shape", "named"),
    [
        pytest.param((8, 1, 1), (4, 32, 32, 32, 1), "does not divide the batch", id="batch"),
        pytest.param((1, 8, 1), (1, 16, 16, 16, 1), "at least 3", id="parts of two planes for kernels of seven"),
        pytest.param((1, 5, 1), (1, 32, 32, 32, 1), "along d", id="fifths"),
        pytest.param((1, 1, 6), (1, 32, 32, 32, 1), "along h", id="sixths of the height"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused_before_compiling(mesh, shape, named):
    devices = jax.devices()[: math.prod(mesh)]
    config = MedNeXtConfig.from_dict({**SMALL.to_dict(), "encoder_kernel_size": 7})
    with pytest.raises(InputError, match=named):
        check_divides(config, make_mesh(*mesh, devices=devices), shape)
