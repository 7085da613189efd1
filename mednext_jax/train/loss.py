"""The training loss: soft Dice and cross entropy as in nnU-Net, two options for thin structures, deep supervision.

The outputs are classes that exclude each other (softmax), or regions that may overlap (sigmoid).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mednext_jax.settings import SWITCH, Range, number, setting

SMOOTH = 1e-5

# The label values of each region; None: the outputs are the classes 0, 1, ...
Regions = Sequence[Sequence[int]] | None


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The weights of the loss's terms and of the heads."""

    dice: float = setting(1.0, number(0), "weight of the soft Dice term (nnU-Net)")
    cross_entropy: float = setting(1.0, number(0), "weight of the cross entropy term (nnU-Net)")
    focal_tversky: float = setting(0.0, number(0), "weight of the focal Tversky term (Abraham & Khan 2019)")
    cldice: float = setting(0.0, number(0), "weight of the soft clDice term (Shit et al. 2021)")
    batch_dice: bool = setting(
        False, SWITCH, "Dice over the batch as one volume; nnU-Net v1: only with a low-resolution stage"
    )
    deep_supervision: tuple[float, ...] = setting(
        (16.0, 8.0, 4.0, 2.0, 1.0),
        Range(
            "five weights of at least 0, the first (full resolution) above 0",
            lambda v: len(v) == 5 and all(0 <= w < math.inf for w in v) and v[0] > 0,
        ),
        "of the five heads, normalised to sum 1 (MedNeXt)",
    )

    def problems_between(self) -> dict[str, str]:
        """Ranges that several weights break together, by field."""
        if any((self.dice, self.cross_entropy, self.focal_tversky, self.cldice)):
            return {}
        return {"": "a term with a weight above 0"}


def segmentation_loss(
    logits: jax.Array | Sequence[jax.Array],
    labels: jax.Array,
    config: LossConfig,
    *,
    ignore_label: int | None = None,
    regions: Regions = None,
) -> jax.Array:
    """The weighted sum of the terms, over all heads; a float32 scalar.

    `logits`: (n, d, h, w, classes), or a tuple of such with each extent halved from one to the next.
    `labels`: (n, d, h, w) integers; below 0 counts as background, `ignore_label` does not count at all.
    Source: nnunetv2 `DC_and_CE_loss`, `DC_and_BCE_loss` (regions), `DeepSupervisionWrapper`.
    """
    heads = (logits,) if isinstance(logits, jax.Array) else tuple(logits)
    weights = head_weights(config.deep_supervision, len(heads))
    total = jnp.zeros((), jnp.float32)
    for level, (head, weight) in enumerate(zip(heads, weights, strict=True)):
        if weight:
            target = every_nth(labels, 2**level)
            total += weight * _one_head(head, target, config, ignore_label, regions)
    return total


def head_weights(weights: Sequence[float], heads: int) -> tuple[float, ...]:
    """The first `heads` of `weights`, normalised to sum 1."""
    used = tuple(float(w) for w in weights[:heads])
    return tuple(w / sum(used) for w in used)


def every_nth(labels: jax.Array, n: int) -> jax.Array:
    """Labels (batch, d, h, w) at 1/n of the resolution, as torch's "nearest-exact": voxel floor((i + 1/2) n)."""
    part = slice(n // 2, None, n)
    return labels[:, part, part, part]


def foreground(labels: jax.Array, outputs: int, regions: Regions) -> jax.Array:
    """Which voxels (n, d, h, w) belong to each foreground class, or to each region: boolean (n, d, h, w, k)."""
    if regions is None:
        return labels[..., None] == jnp.arange(1, outputs)
    return jnp.stack([jnp.isin(labels, jnp.asarray(values)) for values in regions], -1)


def _one_head(
    logits: jax.Array, labels: jax.Array, config: LossConfig, ignore_label: int | None, regions: Regions
) -> jax.Array:
    logits = logits.astype(jnp.float32)
    classes = logits.shape[-1]
    counted = jnp.ones(labels.shape, bool) if ignore_label is None else labels != ignore_label
    labels = jnp.where(counted, jnp.maximum(labels, 0), 0)
    mask = counted[..., None].astype(jnp.float32)
    target = foreground(labels, classes, regions) * mask  # (n, d, h, w, k)
    probability = (jax.nn.softmax(logits)[..., 1:] if regions is None else jax.nn.sigmoid(logits)) * mask
    total = jnp.zeros((), jnp.float32)
    if config.dice:
        total -= config.dice * soft_dice(probability, target, config.batch_dice)
    if config.cross_entropy:
        if regions is None:
            entropy = cross_entropy(logits, jax.nn.one_hot(labels, classes, dtype=jnp.float32), counted)
        else:
            entropy = binary_cross_entropy(logits, target, None if ignore_label is None else mask)
        total += config.cross_entropy * entropy
    if config.focal_tversky:
        total += config.focal_tversky * focal_tversky(probability, target)
    if config.cldice:
        total += config.cldice * soft_cldice(probability, target)
    return total


def soft_dice(probability: jax.Array, target: jax.Array, batch: bool) -> jax.Array:
    """Mean soft Dice over samples and classes; over classes only if `batch` (sums run over the samples too).

    Both (n, d, h, w, classes) without background. nnU-Net's loss is its negative.
    Source: nnunetv2 `MemoryEfficientSoftDiceLoss`.
    """
    axes = (0, 1, 2, 3) if batch else (1, 2, 3)
    both = jnp.sum(probability * target, axes)
    sizes = jnp.sum(probability, axes) + jnp.sum(target, axes)
    return jnp.mean((2 * both + SMOOTH) / jnp.maximum(sizes + SMOOTH, 1e-8))


def cross_entropy(logits: jax.Array, target: jax.Array, counted: jax.Array) -> jax.Array:
    """Mean over the `counted` voxels of -log softmax at the target class, background included.

    `logits`, one-hot `target`: (n, d, h, w, classes); `counted`: (n, d, h, w) booleans.
    """
    each = -jnp.sum(jax.nn.log_softmax(logits) * target, -1)
    return jnp.sum(each * counted) / jnp.maximum(jnp.sum(counted), 1)


def binary_cross_entropy(logits: jax.Array, target: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Mean over voxels and regions of -log sigmoid; `logits`, `target` (n, d, h, w, regions).

    With a `mask` (n, d, h, w, 1), as nnU-Net: the mean over its voxels of the sum over regions.
    """
    each = -target * jax.nn.log_sigmoid(logits) - (1 - target) * jax.nn.log_sigmoid(-logits)
    if mask is None:
        return jnp.mean(each)
    return jnp.sum(each * mask) / jnp.maximum(jnp.sum(mask), 1e-8)


def focal_tversky(
    probability: jax.Array, target: jax.Array, *, false_negative: float = 0.7, gamma: float = 0.75
) -> jax.Array:
    """(1 - Tversky index)^gamma, mean over samples and classes; misses weigh more than false alarms.

    Both (n, d, h, w, classes) without background. Source: Abraham & Khan 2019 (alpha 0.7, gamma 4/3 inverted).
    """
    axes = (1, 2, 3)
    hit = jnp.sum(probability * target, axes)
    missed = jnp.sum((1 - probability) * target, axes)
    false_alarm = jnp.sum(probability * (1 - target), axes)
    index = (hit + SMOOTH) / (hit + false_negative * missed + (1 - false_negative) * false_alarm + SMOOTH)
    # The gradient of x^0.75 is infinite at 0, which an empty and perfectly empty-predicted class reaches.
    return jnp.mean(jnp.maximum(1 - index, 1e-6) ** gamma)


def soft_cldice(probability: jax.Array, target: jax.Array, *, iterations: int = 3) -> jax.Array:
    """1 - clDice of the soft skeletons, mean over samples; the foreground classes count as one structure.

    Both (n, d, h, w, classes) without background. Source: Shit et al. 2021; constants of MONAI `SoftclDiceLoss`.
    """
    axes = (1, 2, 3, 4)
    skeleton, target_skeleton = _soft_skeleton(probability, iterations), _soft_skeleton(target, iterations)
    precision = (jnp.sum(skeleton * target, axes) + 1) / (jnp.sum(skeleton, axes) + 1)
    sensitivity = (jnp.sum(target_skeleton * probability, axes) + 1) / (jnp.sum(target_skeleton, axes) + 1)
    return jnp.mean(1 - 2 * precision * sensitivity / (precision + sensitivity + 1e-4))


def _soft_skeleton(x: jax.Array, iterations: int) -> jax.Array:
    def opened(x: jax.Array) -> jax.Array:
        return _extreme(_erode(x), (3, 3, 3), jax.lax.max, -jnp.inf)

    skeleton = jax.nn.relu(x - opened(x))
    for _ in range(iterations):
        x = _erode(x)
        delta = jax.nn.relu(x - opened(x))
        skeleton += jax.nn.relu(delta - skeleton * delta)
    return skeleton


def _erode(x: jax.Array) -> jax.Array:
    lines = ((3, 1, 1), (1, 3, 1), (1, 1, 3))
    a, b, c = (_extreme(x, line, jax.lax.min, jnp.inf) for line in lines)
    return jnp.minimum(jnp.minimum(a, b), c)


def _extreme(x: jax.Array, window: tuple[int, int, int], pick: Any, start: float) -> jax.Array:
    return jax.lax.reduce_window(x, start, pick, (1, *window, 1), (1,) * 5, "SAME")
