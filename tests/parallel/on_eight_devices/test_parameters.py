"""Weights and optimiser state in shares: the numbers of whole copies, a quarter on each of four devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from mednext_jax.data.augment import make_augment
from mednext_jax.parallel.mesh import make_mesh, over_samples
from mednext_jax.parallel.parameters import shardings_of, state_like
from mednext_jax.train.checkpoint import Checkpoints
from mednext_jax.train.configuration import TrainConfig, default_config
from mednext_jax.train.experiment import to_host
from mednext_jax.train.optimiser import make_optimiser
from mednext_jax.train.state import new_state
from mednext_jax.train.step import make_train_step
from tests.augment_probabilities import AUGMENT_PROBABILITIES

pytestmark = pytest.mark.core

BATCH, SIZE = 8, 16


def first_params():
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(0.3 * rng.normal(size=shape), jnp.float32)

    return {
        "stem": {"kernel": draw(1, 16)},
        "block": {"conv2": {"kernel": draw(16, 64), "bias": draw(64)}, "conv3": {"kernel": draw(64, 16)}},
        "odd": {"conv2": {"kernel": draw(16, 13)}, "conv3": {"kernel": draw(13, 16)}},  # which four do not divide
        "out": {"kernel": draw(16, 2)},
    }


def apply(params, x):
    x = x @ params["stem"]["kernel"]
    x += (
        jax.nn.gelu(x @ params["block"]["conv2"]["kernel"] + params["block"]["conv2"]["bias"])
        @ (params["block"]["conv3"]["kernel"])
    )
    x += jax.nn.gelu(x @ params["odd"]["conv2"]["kernel"]) @ params["odd"]["conv3"]["kernel"]
    return x @ params["out"]["kernel"]


def spread(mesh):
    """As the network is spread: explicitly, with every device seeing all weights."""
    samples = PartitionSpec("data")
    return jax.shard_map(apply, mesh=mesh, in_specs=(PartitionSpec(), samples), out_specs=samples, check_vma=False)


def train(mesh, *, shared, steps=3):
    config = default_config()
    config.data = "none"
    config.patch_size, config.batch_size, config.optimiser.ema = (SIZE,) * 3, BATCH, 0.9
    config.mesh.share_state = shared
    for name in AUGMENT_PROBABILITIES:
        config.augment[name] = 0.0
    config = TrainConfig.of(config)

    def init():
        return new_state(first_params(), make_optimiser(config.optimiser), average=True)

    like = state_like(init, mesh, shared=shared)
    state = jax.jit(init, out_shardings=shardings_of(like))()
    augment = make_augment(config.augment, config.patch_size, mesh, labels=(0, 1))
    step = make_train_step(config, spread(mesh), augment, mesh, like)
    rng = np.random.default_rng(1)
    label = (rng.random((BATCH, SIZE, SIZE, SIZE)) > 0.8).astype(np.int16)
    image = (rng.normal(size=label.shape) + label)[..., None].astype(np.float32)
    batch = jax.device_put({"image": image, "label": label, "row": np.arange(BATCH)}, over_samples(mesh))
    for _ in range(steps):
        state, metrics = step(state, batch)
    return state, metrics, like


def test_training_in_shares_equals_whole_copies(tmp_path):
    mesh = make_mesh(4, 2, 1)
    (shares, metrics, _), (whole, expected, like) = (train(mesh, shared=shared) for shared in (True, False))
    # Sums over devices in another order.
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), to_host(shares), to_host(whole))

    for tree in (shares.params, shares.average, shares.optimiser[1].mu, shares.optimiser[1].nu):
        held = {name: tree["block"][name]["kernel"].addressable_shards[0].data.shape for name in ("conv2", "conv3")}
        assert held == {"conv2": (16, 16), "conv3": (16, 16)}
        assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves((tree["odd"], tree["stem"])))

    # A checkpoint of shares continues as whole copies.
    checkpoints = Checkpoints(tmp_path / "checkpoints", 1)
    checkpoints.save(3, shares, {})
    checkpoints.wait()
    restored = checkpoints.restore(3, like)
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, to_host(restored), to_host(shares))
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(restored))
