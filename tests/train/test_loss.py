"""The loss against golden values of nnU-Net and MONAI, and what a loss must do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mednext_jax.train.loss import (
    LossConfig,
    every_nth,
    focal_tversky,
    head_weights,
    segmentation_loss,
    soft_cldice,
    soft_dice,
)

pytestmark = pytest.mark.core

BATCH, CLASSES, EXTENT = 2, 2, (6, 5, 4)
TERMS = LossConfig()


def golden_input():
    """The seeded input of the golden values below (channels first there, last here)."""
    n = BATCH * CLASSES * np.prod(EXTENT)
    logits = (3 * np.sin(0.37 * np.arange(n))).reshape(BATCH, CLASSES, *EXTENT).astype(np.float32)
    labels = (np.arange(BATCH * np.prod(EXTENT)) % 7 == 0).reshape(BATCH, *EXTENT).astype(np.int16)
    return jnp.asarray(np.moveaxis(logits, 1, -1)), jnp.asarray(labels)


# nnunetv2 2.8.1 DC_and_CE_loss and MONAI 1.6.1 on golden_input(); six printed digits.
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dice": 0.0}, 0.784936),
        ({"cross_entropy": 0.0}, -0.2285327),
        ({"cross_entropy": 0.0, "batch_dice": True}, -0.2285934),
        ({}, 0.5564033),
        ({"batch_dice": True}, 0.5563426),
        ({"dice": 0.0, "cross_entropy": 0.0, "cldice": 1.0}, 0.7101747),
    ],
)
def test_golden_values(changes, expected):
    logits, labels = golden_input()
    assert float(segmentation_loss(logits, labels, LossConfig(**changes))) == pytest.approx(expected, abs=1e-6)


# nnunetv2 2.8.1 DC_and_BCE_loss on golden_input()'s logits and the labels 0, 1, 2, 3 in turn; regions {1, 2} and {2}.
@pytest.mark.parametrize(
    ("batch_dice", "ignore_label", "expected"),
    [(False, None, 0.7307163), (True, None, 0.7307155), (False, 3, 1.8000513)],
)
def test_golden_values_of_regions(batch_dice, ignore_label, expected):
    logits, labels = golden_input()
    labels = jnp.arange(labels.size).reshape(labels.shape) % 4
    terms = LossConfig(batch_dice=batch_dice)
    loss = segmentation_loss(logits, labels, terms, ignore_label=ignore_label, regions=((1, 2), (2,)))
    assert float(loss) == pytest.approx(expected, abs=2e-6)


def test_tversky_index_golden_value():
    logits, labels = golden_input()
    probability = jax.nn.softmax(logits)[..., 1:]
    # MONAI TverskyLoss(alpha=0.3 for false alarms, beta=0.7 for misses): focal Tversky with exponent 1.
    loss = focal_tversky(probability, labels[..., None].astype(jnp.float32), gamma=1.0)
    assert float(loss) == pytest.approx(0.7070816, abs=1e-5)


def test_deep_supervision_weights_of_mednext():
    assert head_weights((16, 8, 4, 2, 1), 5) == pytest.approx([16 / 31, 8 / 31, 4 / 31, 2 / 31, 1 / 31])
    assert head_weights((16, 8, 4, 2, 1), 1) == (1.0,)


def test_lower_heads_see_the_label_that_torch_calls_nearest_exact():
    line = jnp.broadcast_to(jnp.arange(8), (1, 8, 8, 8))
    assert every_nth(line, 2)[0, 0, 0].tolist() == [1, 3, 5, 7]
    assert every_nth(line, 4)[0, 0, 0].tolist() == [2, 6]
    assert every_nth(line, 1) is not None and every_nth(line, 1).shape == (1, 8, 8, 8)


def test_heads_are_weighted_and_a_head_of_weight_zero_is_left_out():
    labels = jnp.asarray(np.random.default_rng(0).integers(0, 2, (1, 16, 16, 16)))
    full = jax.nn.one_hot(labels, 2) * 9
    half = jax.nn.one_hot(every_nth(labels, 2), 2) * 9
    terms = LossConfig(deep_supervision=(3.0, 1.0))
    both = float(segmentation_loss((full, -half), labels, terms))
    each = [float(segmentation_loss(h, t, TERMS)) for h, t in ((full, labels), (-half, every_nth(labels, 2)))]
    assert both == pytest.approx(0.75 * each[0] + 0.25 * each[1], rel=1e-5)
    without = segmentation_loss((full, half * jnp.nan), labels, LossConfig(deep_supervision=(1.0, 0.0)))
    assert float(without) == pytest.approx(each[0], rel=1e-6)


def test_outside_counts_as_background_and_ignored_voxels_do_not_count():
    logits, labels = golden_input()
    outside = jnp.where(labels == 0, -1, labels)
    assert float(segmentation_loss(logits, outside, TERMS)) == float(segmentation_loss(logits, labels, TERMS))

    ignored = labels.at[:, :2].set(5)
    loss = segmentation_loss(logits, ignored, TERMS, ignore_label=5)
    assert float(loss) == pytest.approx(float(segmentation_loss(logits[:, 2:], labels[:, 2:], TERMS)), rel=1e-6)
    gradient = jax.grad(lambda x: segmentation_loss(x, ignored, TERMS, ignore_label=5))(logits)
    assert float(jnp.abs(gradient[:, :2]).max()) == 0


def test_cldice_sees_a_cut_in_a_thin_line_that_dice_hardly_sees():
    line = np.zeros((1, 24, 8, 8, 1), np.float32)
    line[:, 2:22, 3:6, 3:6] = 1
    thin_off = line.copy()
    thin_off[:, 10:13] = 0  # cut through
    shell_off = line.copy()
    shell_off[:, 2:22, 3:6, 3] = 0  # a third of the width is missing, the line still connects
    cut, narrow = (float(soft_cldice(jnp.asarray(x), jnp.asarray(line))) for x in (thin_off, shell_off))
    dice_cut, dice_narrow = (
        1 - float(soft_dice(jnp.asarray(x), jnp.asarray(line), False)) for x in (thin_off, shell_off)
    )
    assert dice_cut < dice_narrow
    assert cut / dice_cut > narrow / dice_narrow


@pytest.mark.parametrize("term", ["dice", "cross_entropy", "focal_tversky", "cldice"])
def test_gradients_are_finite_on_empty_and_on_perfect_predictions(term):
    terms = LossConfig(**{"dice": 0.0, "cross_entropy": 0.0, term: 1.0})
    labels = jnp.zeros((1, 8, 8, 8), jnp.int32).at[:, 2:4, 2:4, 2:4].set(1)
    for target in (labels, jnp.zeros_like(labels)):
        logits = 60 * (2 * jax.nn.one_hot(labels, 2) - 1)
        value, gradient = jax.value_and_grad(lambda x, t=target: segmentation_loss(x, t, terms))(logits)
        assert np.isfinite(float(value)) and bool(jnp.isfinite(gradient).all())
