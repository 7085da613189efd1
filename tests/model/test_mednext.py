"""The whole network: parameters, initial values, recomputation, types and refusals."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import ScopeParamShapeError

from mednext_jax import MedNeXt, MedNeXtConfig
from mednext_jax.errors import InputError
from mednext_jax.model.blocks import MedNeXtUpBlock
from mednext_jax.weights.names import leaves

pytestmark = pytest.mark.core

TINY = MedNeXtConfig(base_channels=4, block_counts=(1,) * 9)
X = np.random.default_rng(0).standard_normal((1, 16, 32, 16, 1)).astype(np.float32)

# As counted in PyTorch for one input channel and three classes; PyTorch's files hold one more, a dummy.
COUNTS = {
    ("S", 3): (5_550_947, 5_553_839),
    ("S", 5): (5_980_579, 5_983_471),
    ("B", 3): (10_526_339, 10_529_231),
    ("B", 5): (10_955_971, 10_958_863),
    ("M", 3): (17_548_995, 17_551_887),
    ("M", 5): (18_260_867, 18_263_759),
    ("L", 3): (61_779_299, 61_782_191),
    ("L", 5): (62_992_931, 62_995_823),
}


@pytest.fixture(scope="module")
def params():
    return MedNeXt(TINY).init(jax.random.key(0), X)["params"]


@pytest.mark.parametrize(("name", "kernel_size"), COUNTS)
def test_parameters_are_those_of_pytorch(name, kernel_size):
    for deep_supervision, count in zip((False, True), COUNTS[name, kernel_size], strict=True):
        config = MedNeXtConfig.variant(name, kernel_size=kernel_size, num_classes=3, deep_supervision=deep_supervision)
        shapes = jax.eval_shape(MedNeXt(config).init, jax.random.key(0), X)["params"]
        flat, _ = jax.tree_util.tree_flatten_with_path(shapes)
        assert sum(math.prod(leaf.shape) for _, leaf in flat) == count
        ours = {tuple(part.key for part in path): leaf.shape for path, leaf in flat}
        assert ours == {leaf.path: leaf.our_shape for leaf in leaves(config)}


def test_initial_values_are_pytorchs_default():
    config = MedNeXtConfig(base_channels=16, block_counts=(1,) * 9, num_classes=3, deep_supervision=True, grn=True)
    params = MedNeXt(config).init(jax.random.key(0), X)["params"]
    bounds = {  # 1 / sqrt(fan_in)
        ("enc_block_0", "0", "conv1"): 27**-0.5,
        ("up_3", "conv1"): 27**-0.5,
        ("bottleneck", "0", "conv2"): 256**-0.5,
        ("bottleneck", "0", "conv3"): 512**-0.5,
        ("down_2", "res_conv"): 64**-0.5,
        ("up_3", "res_conv"): 128**-0.5,  # transposed: PyTorch counts the outputs
        ("out_3", "conv_out"): 3**-0.5,
        ("stem",): 1.0,
    }
    for path, bound in bounds.items():
        module = params
        for part in path:
            module = module[part]
        for values in (np.ravel(module["kernel"]), np.ravel(module["bias"])):
            assert np.abs(values).max() <= bound
            if values.size > 100:
                assert np.abs(values).max() > (1 - 10 / values.size) * bound  # less than that: once in e^10
                # Uniform: mean 0, standard deviation b / sqrt(3), each within five standard errors.
                assert abs(values.mean()) < 5 * bound / math.sqrt(3 * values.size)
                assert abs(values.std() * math.sqrt(3) / bound - 1) < 5 * 0.45 / math.sqrt(values.size)
    norm = params["enc_block_0"]["0"]["norm"]
    assert np.all(norm["scale"] == 1) and np.all(norm["bias"] == 0)
    assert np.all(params["up_0"]["grn_gamma"] == 0) and np.all(params["up_0"]["grn_beta"] == 0)
    assert "grn_gamma" not in params["down_0"] and "grn_gamma" in params["down_1"]


def test_initial_values_are_the_same_under_jit(params):
    again = jax.jit(MedNeXt(TINY).init)(jax.random.key(0), X)["params"]
    jax.tree.map(np.testing.assert_array_equal, again, params)
    other = MedNeXt(TINY).init(jax.random.key(1), X)["params"]
    assert not np.array_equal(other["stem"]["kernel"], params["stem"]["kernel"])


def test_a_block_initialises_by_itself():
    block = MedNeXtUpBlock(in_channels=8, out_channels=4, expansion=2, kernel_size=3)
    x, skip = jnp.ones((1, 2, 2, 2, 8)), jnp.zeros((1, 4, 4, 4, 4))
    params = block.init(jax.random.key(0), x, skip)["params"]
    kernel = np.ravel(params["conv2"]["kernel"])
    assert 0.9 * 8**-0.5 < np.abs(kernel).max() <= 8**-0.5
    y = block.apply({"params": params}, x, skip)
    assert y.shape == (1, 4, 4, 4, 4)
    assert not np.any(y[:, 0]) and not np.any(y[:, :, 0]) and not np.any(y[:, :, :, 0])


def test_recomputation_changes_no_gradient(params):
    def gradients(remat):
        net = MedNeXt(dataclasses.replace(TINY, remat=remat))
        gradient = jax.jit(jax.grad(lambda p: jnp.mean(jnp.square(net.apply({"params": p}, X)))))
        # LLVM's optimisation would take most of the compiler's time, which is nearly all of this test's.
        return gradient.lower(params).compile({"xla_backend_optimization_level": 0})(params)

    plain = gradients("none")
    for remat in ("block", "dw"):
        for a, b in zip(jax.tree.leaves(gradients(remat)), jax.tree.leaves(plain), strict=True):
            # The same arithmetic, which the compiler may fuse otherwise.
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_bfloat16_is_near_float32(params):
    exact = jax.jit(MedNeXt(TINY).apply)({"params": params}, X)
    near = jax.jit(MedNeXt(dataclasses.replace(TINY, dtype="bfloat16")).apply)({"params": params}, X)
    assert near.dtype == jnp.float32
    error = np.linalg.norm(near - exact) / np.linalg.norm(exact)
    assert 1e-5 < error < 2e-2  # eight bits of mantissa through some thirty layers; and it is not float32


def test_extents_of_16_give_the_limit_value(params):
    logits = jax.jit(MedNeXt(TINY).apply)({"params": params}, X[:, :, :16])
    assert logits.shape == (1, 16, 16, 16, 2)
    assert np.all(np.isfinite(logits))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 16, 24, 16, 1), "multiples of 16"),
        ((1, 0, 16, 16, 1), "multiples of 16"),
        ((1, 16, 16, 16, 2), r"\(n, d, h, w, 1\)"),
        ((16, 16, 16, 1), r"\(n, d, h, w, 1\)"),
    ],
)
def test_refuses_shapes_that_do_not_fit(shape, message):
    with pytest.raises(InputError, match=message):
        jax.eval_shape(MedNeXt(TINY).init, jax.random.key(0), jnp.zeros(shape))


def test_a_trace_draws_no_initial_values_and_still_sees_a_wrong_shape(params, monkeypatch):
    """Flax would trace the initialiser of every parameter again: more than half of the time that a trace takes."""
    monkeypatch.setattr("jax.random.uniform", lambda *_, **__: pytest.fail("drawn"))
    net = MedNeXt(TINY)
    assert jax.eval_shape(net.apply, {"params": params}, X).shape == (*X.shape[:4], 2)
    wrong = jax.tree.map(lambda leaf: leaf, params)
    wrong["enc_block_0"]["0"]["conv2"]["kernel"] = np.zeros((4, 9), np.float32)
    with pytest.raises(ScopeParamShapeError, match="enc_block_0/0/conv2"):
        jax.eval_shape(net.apply, {"params": wrong}, X)
