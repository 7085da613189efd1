"""The training step with a network of two layers, so that it compiles at once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mednext_jax.data.augment import make_augment
from mednext_jax.parallel.mesh import make_mesh, replicated
from mednext_jax.train.configuration import TrainConfig, default_config
from mednext_jax.train.optimiser import make_optimiser
from mednext_jax.train.state import new_state
from mednext_jax.train.step import make_train_step, make_validation_step
from tests.augment_probabilities import AUGMENT_PROBABILITIES

pytestmark = pytest.mark.core

BATCH, SIZE = 4, 16


def apply(params, image):
    hidden = jax.lax.conv_general_dilated(
        image, params["kernel"], (1, 1, 1), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )
    return jax.nn.gelu(hidden) @ params["out"]


def first_params():
    rng = np.random.default_rng(0)
    return {
        "kernel": jnp.asarray(rng.normal(size=(3, 3, 3, 1, 4)) * 0.2, jnp.float32),
        "out": jnp.asarray(rng.normal(size=(4, 2)), jnp.float32),
    }


def a_batch(seed=0):
    rng = np.random.default_rng(seed)
    label = (rng.random((BATCH, SIZE, SIZE, SIZE)) > 0.8).astype(np.int16)
    image = (rng.normal(size=label.shape) + label)[..., None].astype(np.float32)
    return {"image": image, "label": label, "row": np.arange(BATCH, dtype=np.int32)}


def a_config(*, ema=0.0, **fields):
    config = default_config()
    config.data = "none"
    config.patch_size, config.batch_size = (SIZE,) * 3, BATCH
    for name in AUGMENT_PROBABILITIES:
        config.augment[name] = 0.0
    for name, value in fields.items():
        config[name] = value
    config.optimiser.ema = ema
    return TrainConfig.of(config)


def steps_of(config, devices=1):
    mesh = make_mesh(devices=jax.devices()[:devices])
    augment = make_augment(config.augment, config.patch_size, mesh, labels=(0, 1))
    state = new_state(first_params(), make_optimiser(config.optimiser), average=config.optimiser.ema > 0)
    state = jax.device_put(state, replicated(mesh))
    return make_train_step(config, apply, augment, mesh, state), state


def test_the_loss_falls():
    step, state = steps_of(a_config())
    losses = []
    for _ in range(30):
        state, metrics = step(state, a_batch())
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-5:]) < losses[0] - 0.02
    assert int(state.step) == 30
    assert step._cache_size() == 1


def test_accumulated_parts_give_the_gradient_of_the_whole_batch():
    results = []
    for parts in (1, 2, 4):
        step, state = steps_of(a_config(accumulate=parts))
        state, metrics = step(state, a_batch())
        results.append((metrics, state))
    for metrics, state in results[1:]:
        for name in ("loss", "gradient_norm"):
            # float32 sums of other order
            assert float(metrics[name]) == pytest.approx(float(results[0][0][name]), rel=1e-5)
        for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(results[0][1].params), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_gradient_norm_is_the_root_of_the_sum_of_squares_to_the_last_digit():
    """`gradient_norm` is optax's; runs before it wrote this expression's."""
    tree = {
        str(n): jnp.asarray(np.random.default_rng(n).normal(size=(3, 5, n)) * 10.0 ** (n % 7 - 3)) for n in range(9)
    }
    tree = jax.tree.map(lambda x: x.astype(jnp.float32), tree)
    expected = jax.jit(lambda tree: jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(tree))))(tree)
    assert float(jax.jit(optax.tree.norm)(tree)) == float(expected)


def test_a_step_that_is_not_finite_is_skipped_and_counted():
    step, state = steps_of(a_config(ema=0.9))
    state, _ = step(state, a_batch())
    before = jax.device_get(state)
    bad = a_batch()
    bad["image"][1, 3, 3, 3] = np.nan
    for skips in (1, 2):
        state, metrics = step(state, bad)
        assert int(metrics["skipped_in_row"]) == skips
    for name in ("params", "optimiser", "average"):
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(getattr(state, name)), getattr(before, name))
    assert int(state.step) == 3  # the data goes on
    state, metrics = step(state, a_batch())
    assert int(metrics["skipped_in_row"]) == 0 and int(state.skipped) == 2
    assert np.isfinite(float(metrics["loss"]))
    assert not np.array_equal(state.params["out"], before.params["out"])


def test_the_average_follows_the_weights():
    step, state = steps_of(a_config(ema=0.75))
    average = first_params()["out"]
    for _ in range(3):
        state, _ = step(state, a_batch())
        average = 0.75 * average + 0.25 * state.params["out"]
    np.testing.assert_allclose(state.average["out"], average, rtol=1e-6)
    assert state.result is state.average


def test_validation_counts_voxels():
    config = a_config()
    mesh = make_mesh(devices=jax.devices()[:1])
    params, batch = first_params(), a_batch()
    batch["label"][0, 0] = -1
    metrics = make_validation_step(config, apply, mesh, params)(params, batch)
    found = np.argmax(apply(params, batch["image"]), -1)
    assert float(metrics["true_positive"][0]) == np.sum((found == 1) & (batch["label"] == 1))
    assert float(metrics["false_positive"][0]) == np.sum((found == 1) & (batch["label"] != 1))
    assert float(metrics["false_negative"][0]) == np.sum((found == 0) & (batch["label"] == 1))
