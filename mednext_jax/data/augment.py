"""nnU-Net's augmentation on the device: what is drawn, with which probability, in which order.

v2's default and v1's `moreDA` share probabilities, ranges and order; three draws differ (`config.augment.policy`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from ml_collections import ConfigDict

from mednext_jax.data import transforms
from mednext_jax.data.sampling import patch_before_rotation

# The lower end of nnU-Net's fixed range for the size of the crop that is read, not of the drawn scales.
SMALLEST_READ_SCALE = 0.85


def read_size(config: ConfigDict) -> tuple[int, int, int]:
    """Voxels (d, h, w) to read for a training patch: larger than the patch if it may be rotated or scaled."""
    a = config.augment
    if not (a.rotation or a.scaling):
        d, h, w = config.patch_size
        return d, h, w
    return patch_before_rotation(config.patch_size, a.rotation_degrees if a.rotation else 0.0, SMALLEST_READ_SCALE)


def make_augment(
    config: ConfigDict, mesh: Mesh, *, labels: Sequence[int], zero_outside: bool = False
) -> Callable[[jax.Array, jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """(key, rows (n,), image (n, D, H, W, c), label (n, D, H, W)) -> patches of `config.patch_size`.

    `labels`: every value a label can have but -1. `zero_outside`: set the image to 0 where the label is -1 (nnU-Net:
    when the normalisation used the mask). Sample i draws from fold_in(key, rows[i]) alone. Each device augments its
    own samples one after another, so a transform that is not drawn costs nothing.
    """

    def one(arguments: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        key, image, label = arguments
        return augment_sample(key, image, label, config, labels=labels, zero_outside=zero_outside)

    def local(key: jax.Array, rows: jax.Array, image: jax.Array, label: jax.Array):
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
        return jax.lax.map(one, (keys, image, label))

    samples = PartitionSpec("data")
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(PartitionSpec(), samples, samples, samples),
        out_specs=samples,
        # Along "space" every device does the same work, which the check cannot see through the branches.
        check_vma=False,
    )


def augment_sample(
    key: jax.Array,
    image: jax.Array,
    label: jax.Array,
    config: ConfigDict,
    *,
    labels: Sequence[int],
    zero_outside: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """One sample: `image` (D, H, W, c), `label` (D, H, W) as read -> patch, in nnU-Net's order.

    Source: nnunetv2 `nnUNetTrainer.get_training_transforms`, nnU-Net v1 `get_moreDA_augmentation`; probabilities and
    ranges from `config.augment`.
    """
    a, size, channels = config.augment, tuple(config.patch_size), image.shape[-1]
    first_version = a.policy == "moreDA"
    spatial, *keys = jax.random.split(key, 10)
    keys_of = dict(zip(_INTENSITY, keys, strict=False))
    image, label = _spatial(spatial, image, label, config, labels)

    def draw(name: str, apply: Callable[[jax.Array, jax.Array], jax.Array]) -> None:
        nonlocal image
        if getattr(a, name):
            chance, rest = jax.random.split(keys_of[name])
            drawn = jax.random.bernoulli(chance, getattr(a, name))
            image = jax.lax.cond(drawn, lambda x: apply(rest, x), lambda x: x, image)

    def per_channel(key: jax.Array, probability: float, new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(jax.random.bernoulli(key, probability, (channels,)), new, old)

    def noise(key: jax.Array, x: jax.Array) -> jax.Array:
        k1, k2 = jax.random.split(key)
        return x + _uniform(k1, a.noise_range) * jax.random.normal(k2, x.shape)

    def blur(key: jax.Array, x: jax.Array) -> jax.Array:
        k1, k2 = jax.random.split(key)
        sigma = _uniform(k1, a.blur_range, (channels, 1 if first_version else 3))
        blurred = transforms.blur(x, jnp.broadcast_to(sigma, (channels, 3)))
        return per_channel(k2, a.blur_per_channel, blurred, x)

    def brightness(key: jax.Array, x: jax.Array) -> jax.Array:
        factor = _uniform if first_version else _about_one
        return x * factor(key, a.brightness_range, (channels,))

    def low_resolution(key: jax.Array, x: jax.Array) -> jax.Array:
        k1, k2 = jax.random.split(key)
        coarse = transforms.low_resolution(x, _uniform(k1, a.low_resolution_range, (channels,)))
        return per_channel(k2, a.low_resolution_per_channel, coarse, x)

    draw("noise", noise)
    draw("blur", blur)
    draw("brightness", brightness)
    draw("contrast", lambda key, x: transforms.contrast(x, _about_one(key, a.contrast_range, (channels,))))
    draw("low_resolution", low_resolution)
    draw("inverted_gamma", lambda key, x: -transforms.gamma(-x, _about_one(key, a.gamma_range, (channels,))))
    draw("gamma", lambda key, x: transforms.gamma(x, _about_one(key, a.gamma_range, (channels,))))

    flips = jax.random.bernoulli(keys_of["mirror"], 0.5, (3,))
    for axis in a.mirror_axes:
        image = jnp.where(flips[axis], jnp.flip(image, axis), image)
        label = jnp.where(flips[axis], jnp.flip(label, axis), label)
    if zero_outside:
        image = jnp.where(label[..., None] == transforms.OUTSIDE, 0, image)
    assert image.shape[:3] == size
    return image, label


_INTENSITY = (
    *("noise", "blur", "brightness", "contrast", "low_resolution", "inverted_gamma", "gamma"),
    "mirror",
)


def _spatial(
    key: jax.Array, image: jax.Array, label: jax.Array, config: ConfigDict, labels: Sequence[int]
) -> tuple[jax.Array, jax.Array]:
    """Rotation and scaling about the centre, or the plain centre crop when neither is drawn."""
    a, size = config.augment, tuple(config.patch_size)

    def cropped() -> tuple[jax.Array, jax.Array]:
        return transforms.centre_crop(image, size), transforms.centre_crop(label, size)

    if not (a.rotation or a.scaling):
        return cropped()
    k1, k2, k3, k4 = jax.random.split(key, 4)
    rotate, scale = jax.random.bernoulli(k1, a.rotation), jax.random.bernoulli(k2, a.scaling)
    limit = jnp.deg2rad(a.rotation_degrees)
    angles = jnp.where(rotate, jax.random.uniform(k3, (3,), minval=-limit, maxval=limit), 0)
    drawn = (_about_one if a.policy == "moreDA" else _uniform)(k4, a.scaling_range)
    factor = jnp.where(scale, drawn, 1)

    def moved() -> tuple[jax.Array, jax.Array]:
        matrix = transforms.affine_matrix(angles, jnp.broadcast_to(factor, (3,)))
        return transforms.affine(image, label, matrix, size, labels)

    return jax.lax.cond(rotate | scale, moved, cropped)


def _uniform(key: jax.Array, span: Sequence[float], shape: tuple[int, ...] = ()) -> jax.Array:
    return jax.random.uniform(key, shape, minval=span[0], maxval=span[1])


def _about_one(key: jax.Array, span: Sequence[float], shape: tuple[int, ...] = ()) -> jax.Array:
    """Below 1 with probability 1/2, then uniform in [low, 1], else in [max(low, 1), high].

    Source: batchgeneratorsv2 `BGContrast`.
    """
    low, high = span
    k1, k2 = jax.random.split(key)
    u = jax.random.uniform(k2, shape)
    below = jax.random.bernoulli(k1, 0.5, shape) & (low < 1)
    above = max(low, 1.0)
    return jnp.where(below, low + u * (1 - low), above + u * (high - above))
