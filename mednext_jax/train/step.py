"""One training step and one validation step, each a single compiled program on the mesh."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from mednext_jax.parallel.mesh import over_samples, replicated
from mednext_jax.parallel.network import Apply
from mednext_jax.parallel.parameters import shardings_of
from mednext_jax.train.configuration import TrainConfig
from mednext_jax.train.loss import Regions, foreground, segmentation_loss
from mednext_jax.train.optimiser import make_optimiser, make_schedule
from mednext_jax.train.state import TrainState

Metrics = dict[str, jax.Array]
Patches = Callable[[jax.Array, Mapping[str, Any]], tuple[jax.Array, jax.Array]]


class LearnedOutputs(NamedTuple):
    """What a network's outputs mean in the labels: how many, the regions (None: classes), the label that is ignored."""

    number: int
    regions: Regions
    ignore_label: int | None


def first_logits(apply: Apply, count: int) -> Apply:
    """The network's first `count` outputs, of every head."""

    def first(params: Any, image: jax.Array) -> Any:
        return jax.tree.map(lambda logits: logits[..., :count], apply(params, image))

    return first


def make_train_step(
    config: TrainConfig,
    apply: Apply,
    patches: Patches,
    mesh: Mesh,
    state_like: TrainState,
    *,
    batch_shardings: Any = None,
    ignore_label: int | None = None,
    regions: Regions = None,
) -> Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, Metrics]]:
    """The jitted pure step (state, batch) -> (state, metrics); `state` is donated.

    `state_like` (arrays or shapes) has the shardings of the state, before the step and after it.
    `apply(params, image)` gives the logits of image (n, d, h, w, c). `patches(key, batch)` makes image and label
    (n, d, h, w) of a batch: augmented crops, or generated ones. A batch has `row` (n,), the place of each sample in
    the global batch: its randomness is fold_in(fold_in(key(seed), step), row), whatever the mesh.
    batch_shardings: of the arrays of a batch; None: all of them have samples first.
    Metrics (scalars): step (steps done), loss, gradient_norm, learning_rate, skipped, skipped_in_row.
    """
    optimiser = make_optimiser(config.optimiser)
    schedule = make_schedule(config.optimiser, config.steps, config.steps_per_epoch)
    parts, decay = config.accumulate, config.optimiser.ema

    def loss_of(params: Any, image: jax.Array, label: jax.Array) -> jax.Array:
        return segmentation_loss(apply(params, image), label, config.loss, ignore_label=ignore_label, regions=regions)

    def loss_and_gradient(params: Any, image: jax.Array, label: jax.Array) -> tuple[jax.Array, Any]:
        if parts == 1:
            return jax.value_and_grad(loss_of)(params, image, label)

        # Part i takes the rows i, i + parts, ... so that every device keeps its own samples.
        def split(x: jax.Array) -> jax.Array:
            return jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)

        def add(total: Any, part: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, jax.value_and_grad(loss_of)(params, *part)), None

        zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
        total, _ = jax.lax.scan(add, zero, (split(image), split(label)))
        return jax.tree.map(lambda x: x / parts, total)

    def step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        image, label = patches(key, batch)
        loss, gradient = loss_and_gradient(state.params, image, label)
        norm = optax.tree.norm(gradient)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        rate = schedule(state.step)
        updates, optimiser_state = optimiser.update(gradient, state.optimiser, state.params)
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
        average = state.average
        if average is not None:
            # optax.incremental_update adds in the other order: with fused multiply-adds its last digit differs.
            average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, params)

        def keep(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

        skipped_in_row = jnp.where(finite, 0, state.skipped_in_row + 1)
        new = TrainState(
            step=state.step + 1,
            params=keep(params, state.params),
            optimiser=keep(optimiser_state, state.optimiser),
            average=keep(average, state.average),
            skipped=state.skipped + (~finite).astype(jnp.int32),
            skipped_in_row=skipped_in_row,
        )
        metrics = {
            "step": new.step,
            "loss": loss,
            "gradient_norm": norm,
            "learning_rate": rate,
            "skipped": new.skipped,
            "skipped_in_row": skipped_in_row,
        }
        return new, metrics

    state, metrics = shardings_of(state_like), replicated(mesh)
    batch = over_samples(mesh) if batch_shardings is None else batch_shardings
    return jax.jit(step, in_shardings=(state, batch), out_shardings=(state, metrics), donate_argnums=0)


def make_validation_step(
    config: TrainConfig,
    apply: Apply,
    mesh: Mesh,
    params_like: Any,
    *,
    ignore_label: int | None = None,
    regions: Regions = None,
) -> Callable[[Any, dict[str, jax.Array]], Metrics]:
    """The jitted (params, batch) -> loss and the voxel counts for the pseudo Dice, without augmentation.

    `params_like` (arrays or shapes) has the shardings of the parameters.
    `true_positive`, `false_positive`, `false_negative`: float32 for each foreground class of the full-resolution
    head's argmax, or for each region, summed over the batch.
    """

    def step(params: Any, batch: dict[str, jax.Array]) -> Metrics:
        logits, label = apply(params, batch["image"]), batch["label"]
        loss = segmentation_loss(logits, label, config.loss, ignore_label=ignore_label, regions=regions)
        full = logits if isinstance(logits, jax.Array) else logits[0]
        counted = jnp.ones(label.shape, bool) if ignore_label is None else label != ignore_label
        outputs = full.shape[-1]
        found = full > 0 if regions else foreground(jnp.argmax(full, -1), outputs, None)  # (n, d, h, w, k)
        true = foreground(label, outputs, regions)

        def count(voxels: jax.Array) -> jax.Array:
            return jnp.sum(voxels & counted[..., None], (0, 1, 2, 3), dtype=jnp.float32)

        return {
            "loss": loss,
            "true_positive": count(found & true),
            "false_positive": count(found & ~true),
            "false_negative": count(~found & true),
        }

    params = shardings_of(params_like)
    return jax.jit(step, in_shardings=(params, over_samples(mesh)), out_shardings=replicated(mesh))
