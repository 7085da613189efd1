"""Schedules against nnU-Net's figures, optimisers against torch's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mednext_jax.train.optimiser import OptimiserConfig, make_optimiser, make_schedule

pytestmark = pytest.mark.core


# nnU-Net's 1e-2 (1 - epoch / 1000)^0.9.
@pytest.mark.parametrize(
    ("epoch", "rate"), [(0, 0.01), (100, 0.0090953), (500, 0.0053589), (900, 0.0012589), (999, 1.9953e-5)]
)
def test_poly_is_nnunets(epoch, rate):
    schedule = make_schedule(OptimiserConfig(learning_rate=1e-2), 1000 * 250, 250)
    first, last = epoch * 250, epoch * 250 + 249
    assert float(schedule(first)) == pytest.approx(rate, rel=3e-5)  # printed digits
    assert float(schedule(last)) == float(schedule(first))


def test_cosine_reaches_zero_and_warm_up_rises_to_the_rate():
    schedule = make_schedule(OptimiserConfig(learning_rate=2.0, schedule="cosine", warmup_steps=10), 110, 250)
    assert [float(schedule(s)) for s in (0, 4, 9)] == pytest.approx([0.2, 1.0, 2.0])
    assert float(schedule(60)) == pytest.approx(1.0)
    assert float(schedule(110)) == pytest.approx(0.0, abs=1e-6)
    constant = make_schedule(OptimiserConfig(schedule="constant", learning_rate=0.5), 1000, 250)
    assert float(constant(100_000)) == 0.5


def test_cosine_is_optaxs_but_for_the_last_digit():
    ours = make_schedule(OptimiserConfig(learning_rate=3e-4, schedule="cosine"), 300, 50)
    theirs = optax.cosine_decay_schedule(3e-4, 300)
    steps = jnp.arange(301)
    np.testing.assert_allclose(jax.vmap(ours)(steps), jax.vmap(theirs)(steps), rtol=0, atol=1e-6 * 3e-4)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_ten_updates_equal_torchs(name):
    torch = pytest.importorskip("torch")
    config = OptimiserConfig(name=name, learning_rate=0.1, clip_norm=2.0, weight_decay=0.01)
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

    optimiser, schedule = make_optimiser(config), make_schedule(config, 1000, 250)
    ours = jax.tree.map(jnp.asarray, start)
    state = optimiser.init(ours)
    for gradient in gradients:
        updates, state = optimiser.update(gradient, state, ours)
        ours = optax.apply_updates(ours, jax.tree.map(lambda u: -schedule(0) * u, updates))
    for k, value in ours.items():
        # torch divides by norm + 1e-6 when clipping.
        np.testing.assert_allclose(value, theirs[k].detach().numpy(), rtol=1e-5, atol=1e-5)
