"""nnU-Net's augmentation on the device: what is drawn, with which probability, in which order.

v2's default and v1's `moreDA` share probabilities, ranges and order; three draws differ (`config.augment.policy`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from mednext_jax.data import transforms
from mednext_jax.data.sampling import patch_before_rotation
from mednext_jax.settings import PROBABILITY, Range, one_of, setting, span

# The lower end of nnU-Net's fixed range for the size of the crop that is read, not of the drawn scales.
SMALLEST_READ_SCALE = 0.85


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Probabilities, ranges and order of nnU-Net's default augmentation, drawn for each sample.

    A transform of probability 0 is not compiled.
    """

    policy: str = setting(
        "DA",
        one_of("DA", "moreDA"),
        "nnU-Net v2's, or v1's with the same probabilities and ranges: scales below and above 1 equally often, "
        "brightness uniform, one blur for all axes (v1 also interpolates with order 3; here it is linear)",
    )
    rotation: float = setting(0.2, PROBABILITY, "probability of a rotation")
    rotation_degrees: float = setting(
        30.0, Range("degrees from 0 to 90", lambda v: 0 <= v <= 90), "each axis uniform between minus and plus this"
    )
    scaling: float = setting(0.2, PROBABILITY, "probability of a scaling")
    scaling_range: tuple[float, ...] = setting(
        (0.7, 1.4), span(0.1, 10), "one factor for all axes; a larger one makes smaller objects"
    )
    noise: float = setting(0.1, PROBABILITY, "probability of Gaussian noise")
    noise_range: tuple[float, ...] = setting((0.0, 0.1), span(0, 10), "standard deviation")
    blur: float = setting(0.2, PROBABILITY, "probability of a Gaussian blur")
    # The kernel has 7 taps.
    blur_range: tuple[float, ...] = setting((0.5, 1.0), span(0.05, 1.2), "sigma in voxels, each axis its own")
    blur_per_channel: float = setting(0.5, PROBABILITY, "and then of each channel")
    brightness: float = setting(0.15, PROBABILITY, "probability of another brightness")
    brightness_range: tuple[float, ...] = setting((0.75, 1.25), span(0.01, 100), "factor")
    contrast: float = setting(0.15, PROBABILITY, "probability of another contrast")
    contrast_range: tuple[float, ...] = setting(
        (0.75, 1.25), span(0.01, 100), "factor, clipped to the patch's own range"
    )
    low_resolution: float = setting(0.25, PROBABILITY, "probability of a loss of resolution")
    low_resolution_range: tuple[float, ...] = setting((0.5, 1.0), span(0.05, 1), "part of the resolution that is left")
    low_resolution_per_channel: float = setting(0.5, PROBABILITY, "and then of each channel")
    inverted_gamma: float = setting(0.1, PROBABILITY, "probability of a gamma curve of the inverted image")
    gamma: float = setting(0.3, PROBABILITY, "probability of a gamma curve")
    gamma_range: tuple[float, ...] = setting(
        (0.7, 1.5), span(0.01, 100), "exponent; mean and standard deviation are kept"
    )
    mirror_axes: tuple[int, ...] = setting(
        (0, 1, 2),
        Range(
            "different axes among 0, 1, 2",
            lambda v: len(set(v)) == len(v) and all(type(axis) is int and axis in (0, 1, 2) for axis in v),
        ),
        "each flipped with probability 0.5; also the axes of test-time mirroring",
    )


def read_size(config: AugmentConfig, patch_size: tuple[int, int, int]) -> tuple[int, int, int]:
    """Voxels (d, h, w) to read for a training patch: larger than the patch if it may be rotated or scaled."""
    if not (config.rotation or config.scaling):
        return patch_size
    return patch_before_rotation(patch_size, config.rotation_degrees if config.rotation else 0.0, SMALLEST_READ_SCALE)


def make_augment(
    config: AugmentConfig,
    patch_size: tuple[int, int, int],
    mesh: Mesh,
    *,
    labels: Sequence[int],
    zero_outside: bool = False,
) -> Callable[[jax.Array, Mapping[str, jax.Array]], tuple[jax.Array, jax.Array]]:
    """(key, batch: row (n,), image (n, D, H, W, c), label (n, D, H, W)) -> patches of `patch_size` (d, h, w).

    `labels`: every value a label can have but -1. `zero_outside`: set the image to 0 where the label is -1 (nnU-Net:
    when the normalisation used the mask). Sample i draws from fold_in(key, rows[i]) alone. Each device augments its
    own samples one after another, so a transform that is not drawn costs nothing.
    """

    def one(arguments: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        key, image, label = arguments
        return augment_sample(key, image, label, config, patch_size, labels=labels, zero_outside=zero_outside)

    def local(key: jax.Array, rows: jax.Array, image: jax.Array, label: jax.Array):
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
        return jax.lax.map(one, (keys, image, label))

    samples = PartitionSpec("data")
    augment = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(PartitionSpec(), samples, samples, samples),
        out_specs=samples,
        # Along "space" every device does the same work, which the check cannot see through the branches.
        check_vma=False,
    )
    return lambda key, batch: augment(key, batch["row"], batch["image"], batch["label"])


def augment_sample(
    key: jax.Array,
    image: jax.Array,
    label: jax.Array,
    config: AugmentConfig,
    patch_size: tuple[int, int, int],
    *,
    labels: Sequence[int],
    zero_outside: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """One sample: `image` (D, H, W, c), `label` (D, H, W) as read -> patch, in nnU-Net's order.

    Source: nnunetv2 `nnUNetTrainer.get_training_transforms`, nnU-Net v1 `get_moreDA_augmentation`; probabilities and
    ranges from `config`.
    """
    a, channels = config, image.shape[-1]
    first_version = a.policy == "moreDA"
    spatial, *keys = jax.random.split(key, 10)
    keys_of = dict(zip(_INTENSITY, keys, strict=False))
    image, label = _spatial(spatial, image, label, config, patch_size, labels)

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
    assert image.shape[:3] == patch_size
    return image, label


_INTENSITY = (
    *("noise", "blur", "brightness", "contrast", "low_resolution", "inverted_gamma", "gamma"),
    "mirror",
)


def _spatial(
    key: jax.Array,
    image: jax.Array,
    label: jax.Array,
    a: AugmentConfig,
    size: tuple[int, int, int],
    labels: Sequence[int],
) -> tuple[jax.Array, jax.Array]:
    """Rotation and scaling about the centre, or the plain centre crop when neither is drawn."""

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
