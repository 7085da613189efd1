"""Schedules against nnU-Net's figures, optimisers against torch's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mednext_jax.train.config import default_config
from mednext_jax.train.optimiser import make_optimiser, make_schedule

pytestmark = pytest.mark.core


def config_with(**fields):
    config = default_config()
    for name, value in fields.items():
        config.optimiser[name] = value
    return config


# nnU-Net's 1e-2 (1 - epoch / 1000)^0.9.
@pytest.mark.parametrize(
    ("epoch", "rate"), [(0, 0.01), (100, 0.0090953), (500, 0.0053589), (900, 0.0012589), (999, 1.9953e-5)]
)
def test_poly_is_nnunets(epoch, rate):
    config = config_with(learning_rate=1e-2)
    config.steps = 1000 * config.steps_per_epoch
    schedule = make_schedule(config)
    first, last = epoch * 250, epoch * 250 + 249
    assert float(schedule(first)) == pytest.approx(rate, rel=3e-5)  # printed digits
    assert float(schedule(last)) == float(schedule(first))


def test_cosine_reaches_zero_and_warm_up_rises_to_the_rate():
    config = config_with(learning_rate=2.0, schedule="cosine", warmup_steps=10)
    config.steps = 110
    schedule = make_schedule(config)
    assert [float(schedule(s)) for s in (0, 4, 9)] == pytest.approx([0.2, 1.0, 2.0])
    assert float(schedule(60)) == pytest.approx(1.0)
    assert float(schedule(110)) == pytest.approx(0.0, abs=1e-6)
    constant = make_schedule(config_with(schedule="constant", learning_rate=0.5))
    assert float(constant(100_000)) == 0.5


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_ten_updates_equal_torchs(name):
    torch = pytest.importorskip("torch")
    config = config_with(name=name, learning_rate=0.1, clip_norm=2.0, weight_decay=0.01)
    rng = np.random.default_rng(0)
    start = {"kernel": rng.normal(size=(4, 5)), "bias": rng.normal(size=5)}
    start = {k: v.astype(np.float32) for k, v in start.items()}
    gradients = [
        {k: rng.normal(size=v.shape).astype(np.float32) * scale for k, v in start.items()}
        for scale in (0.1, 1, 5, 0.01, 1, 1, 3, 0.5, 1, 1)
    ]

    theirs = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in start.items()}
    if name == "adamw":
        reference = torch.optim.AdamW(theirs.values(), lr=0.1, eps=1e-4, weight_decay=0.01)
    else:
        reference = torch.optim.SGD(theirs.values(), lr=0.1, momentum=0.99, nesterov=True, weight_decay=0.01)
    for gradient in gradients:
        for k, p in theirs.items():
            p.grad = torch.tensor(gradient[k])
        torch.nn.utils.clip_grad_norm_(theirs.values(), 2.0)
        reference.step()

    optimiser, schedule = make_optimiser(config), make_schedule(config)
    ours = jax.tree.map(jnp.asarray, start)
    state = optimiser.init(ours)
    for gradient in gradients:
        updates, state = optimiser.update(gradient, state, ours)
        ours = optax.apply_updates(ours, jax.tree.map(lambda u: -schedule(0) * u, updates))
    for k, value in ours.items():
        # torch divides by norm + 1e-6 when clipping.
        np.testing.assert_allclose(value, theirs[k].detach().numpy(), rtol=1e-5, atol=1e-5)
