"""The same fifty batches from the same weights: the loss follows a PyTorch implementation of the step."""

import copy

import jax
import numpy as np
import pytest

from mednext_jax.parallel.mesh import replicated
from mednext_jax.train.configuration import TrainConfig
from mednext_jax.train.experiment import Experiment
from mednext_jax.train.optimiser import make_optimiser
from mednext_jax.train.state import new_state
from mednext_jax.weights.names import from_torch_names

torch = pytest.importorskip("torch")
from torch.nn import functional  # noqa: E402

from tools.torch_reference import TorchMedNeXt  # noqa: E402

STEPS = 50


def torch_loss(heads, label, weights):
    """nnU-Net's Dice + cross entropy with deep supervision, in PyTorch's own functions."""
    total, target = 0.0, label.clamp(min=0)[:, None].float()
    for level, (logits, weight) in enumerate(zip(heads, weights, strict=True)):
        small = functional.interpolate(target, scale_factor=0.5**level, mode="nearest-exact")[:, 0].long()
        probability, true = logits.softmax(1)[:, 1:], (small == 1)[:, None].float()
        both, sizes = (probability * true).sum((2, 3, 4)), (probability + true).sum((2, 3, 4))
        dice = ((2 * both + 1e-5) / (sizes + 1e-5)).mean()
        total = total + weight * (functional.cross_entropy(logits, small) - dice)
    return total


@pytest.mark.slow
def test_loss_curve_follows_torch(tiny):
    config = copy.deepcopy(tiny)
    config.steps, config.steps_per_epoch = STEPS, 10
    config.optimiser.learning_rate = 1e-3
    config.augment.mirror_axes = ()
    config = TrainConfig.of(config)
    experiment = Experiment.of(config)
    torch.manual_seed(0)
    theirs = TorchMedNeXt(experiment.architecture)
    weights = {name: value.numpy() for name, value in theirs.state_dict().items()}
    params = from_torch_names(experiment.architecture, copy.deepcopy(weights))
    state = jax.device_put(
        new_state(params, make_optimiser(config.optimiser), average=False), replicated(experiment.mesh)
    )

    o = config.optimiser
    reference = torch.optim.AdamW(theirs.parameters(), lr=o.learning_rate, eps=o.epsilon, weight_decay=o.weight_decay)
    head_weights = np.array(config.loss.deep_supervision) / sum(config.loss.deep_supervision)
    for step in range(STEPS):
        rows = [experiment.training(step, row) for row in range(config.batch_size)]
        batch = {name: np.stack([row[name] for row in rows]) for name in ("image", "label", "row")}
        state, metrics = experiment.train_step(state, batch)

        for group in reference.param_groups:
            group["lr"] = o.learning_rate * (1 - (step // 10) / 5) ** 0.9
        loss = torch_loss(
            theirs(torch.from_numpy(np.moveaxis(batch["image"], -1, 1).copy())),
            torch.from_numpy(batch["label"].astype(np.int64)),
            head_weights,
        )
        reference.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), o.clip_norm)
        reference.step()
        # Two float32 implementations drift apart from rounding alone, step by step.
        assert float(metrics["loss"]) == pytest.approx(loss.item(), rel=1e-3), f"step {step}"
    assert loss.item() < 0.7  # it did learn
