"""The augmentation policy: what is drawn from what, how often, and that parts can be switched off."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mednext_jax.data import transforms
from mednext_jax.data.augment import AugmentConfig, augment_sample, make_augment, read_size
from mednext_jax.parallel.mesh import make_mesh
from mednext_jax.train.configuration import default_config, small_objects
from tests.augment_probabilities import AUGMENT_PROBABILITIES

pytestmark = pytest.mark.core

PATCH = (16, 16, 16)


def a_config(**augment):
    return AugmentConfig(**{**dict.fromkeys(AUGMENT_PROBABILITIES, 0.0), "mirror_axes": (), **augment})


def a_sample(size=PATCH):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(*size, 1)).astype(np.float32)
    return image, (image[..., 0] > 1).astype(np.int16)


def many(config, count, size=PATCH):
    """Augmented images of one sample under `count` keys."""
    image, label = a_sample(size)
    one = functools.partial(augment_sample, config=config, patch_size=PATCH, labels=(0, 1))
    keys = jax.random.split(jax.random.key(0), count)
    return image, label, *jax.jit(jax.vmap(lambda key: one(key, jnp.asarray(image), jnp.asarray(label))))(keys)


def test_everything_off_changes_nothing():
    image, label, images, labels = many(a_config(), 3)
    assert read_size(a_config(), PATCH) == PATCH
    np.testing.assert_array_equal(images, np.broadcast_to(image, images.shape))
    np.testing.assert_array_equal(labels, np.broadcast_to(label, labels.shape))


@pytest.mark.parametrize("name", ["noise", "brightness", "contrast", "gamma", "inverted_gamma"])
def test_transforms_are_drawn_with_their_probability(name):
    image, label, images, labels = many(a_config(**{name: 0.3}), 300)
    changed = np.mean([not np.array_equal(each, image) for each in np.asarray(images)])
    assert abs(changed - 0.3) < 0.106  # four standard deviations
    np.testing.assert_array_equal(labels, np.broadcast_to(label, labels.shape))


def test_mirroring_flips_image_and_label_together_on_the_named_axes():
    image, label, images, labels = many(a_config(mirror_axes=(0, 2)), 40)
    seen = set()
    for each, mark in zip(np.asarray(images), np.asarray(labels), strict=True):
        for axes in ((), (0,), (2,), (0, 2)):
            if np.array_equal(each, np.flip(image, axes)):
                np.testing.assert_array_equal(mark, np.flip(label, axes))
                seen.add(axes)
    assert seen == {(), (0,), (2,), (0, 2)}


def test_zero_outside_clears_the_image_where_the_label_is_minus_one():
    image, label = a_sample()
    label[:5] = -1
    config = a_config(brightness=1.0)
    found, _ = jax.jit(
        functools.partial(augment_sample, config=config, patch_size=PATCH, labels=(0, 1), zero_outside=True)
    )(jax.random.key(0), image + 10, label)
    assert float(jnp.abs(found[:5]).max()) == 0
    assert float(jnp.abs(found[5:]).min()) > 0


def test_the_policy_of_version_1_draws_scale_brightness_and_blur_its_own_way(monkeypatch):
    scales, sigmas = [], []
    affine_matrix, blur = transforms.affine_matrix, transforms.blur
    monkeypatch.setattr(transforms, "affine_matrix", lambda a, s: scales.append(float(s[0])) or affine_matrix(a, s))
    monkeypatch.setattr(transforms, "blur", lambda x, s: sigmas.append(np.asarray(s)) or blur(x, s))
    image, label = (jnp.asarray(x) for x in a_sample())

    def draws(**augment):
        found = []
        with jax.disable_jit():  # so that the recorders see numbers
            for seed in range(40):
                config = a_config(**augment)
                found.append(augment_sample(jax.random.key(seed), image, label, config, PATCH, labels=(0, 1))[0])
        return found

    for policy in ("DA", "moreDA"):
        scales.clear(), sigmas.clear()
        draws(policy=policy, scaling=1.0, scaling_range=(0.95, 1.45))
        below = np.mean(np.array(scales) < 1)  # a tenth of the range, or one of two
        assert len(scales) == 40 and (below > 0.3) == (policy == "moreDA")
        draws(policy=policy, blur=1.0)
        isotropic = [bool((s == s[:, :1]).all()) for s in sigmas]
        assert all(isotropic) if policy == "moreDA" else not any(isotropic)
    factors = [float(x.std() / image.std()) for x in draws(policy="moreDA", brightness=1.0)]
    assert 0.75 <= min(factors) < 0.85 and 1.15 < max(factors) <= 1.25


def test_small_objects_preset_keeps_a_line_of_one_voxel_visible():
    line = jnp.zeros((16, 16, 16, 1)).at[:, 8, 8].set(1)
    left = []
    for config in (small_objects(default_config()), default_config()):
        left.append(float(transforms.blur(line, jnp.full((1, 3), config.augment.blur_range[1])).max()))
    assert left[0] > 0.5 and left[1] < 0.2
    assert small_objects(default_config()).augment.low_resolution == 0
    assert float(transforms.low_resolution(line, jnp.full(1, 0.5)).max()) == 0  # why it is off


def test_a_sample_is_augmented_alike_in_any_batch():
    config = a_config(rotation=0.5, brightness=0.5, mirror_axes=(0, 1, 2))
    size = read_size(config, PATCH)
    augment = jax.jit(make_augment(config, PATCH, make_mesh(devices=jax.devices()[:1]), labels=(0, 1)))
    image, label = a_sample(size)
    images, labels = np.stack([image] * 4), np.stack([label] * 4)
    key, rows = jax.random.key(3), np.arange(4, dtype=np.int32)
    batch = {"row": rows, "image": images, "label": labels}
    whole = augment(key, batch)
    part = augment(key, {name: value[2:] for name, value in batch.items()})
    for a, b in zip(whole, part, strict=True):
        # One program per batch size: the compiler may fuse otherwise.
        np.testing.assert_allclose(np.asarray(a)[2:], b, atol=1e-5)
    assert not np.array_equal(whole[0][0], whole[0][1])
    assert whole[0].shape == (4, *PATCH, 1)
