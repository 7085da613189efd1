"""Every transform equals batchgeneratorsv2's for the same parameters."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mednext_jax.data import augment, transforms
from tests.augment_probabilities import AUGMENT_PROBABILITIES

torch = pytest.importorskip("torch")
spatial = pytest.importorskip("batchgeneratorsv2.transforms.spatial.spatial")
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform  # noqa: E402
from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform  # noqa: E402
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform  # noqa: E402
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform  # noqa: E402
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform  # noqa: E402
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform  # noqa: E402
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform  # noqa: E402

SHAPE = (26, 24, 30)


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    return rng.normal(size=(*SHAPE, 2)).astype(np.float32)


def first(x):
    return torch.from_numpy(np.moveaxis(x, -1, 0).copy())


def last(x):
    return np.moveaxis(x.numpy(), 0, -1)


# The last labels do not fit into one look-up.
@pytest.mark.parametrize(
    ("angles", "scale", "labels"),
    [
        ((0.3, -0.5, 0.2), 1.0, (0, 1)),
        ((0.0, 0.0, 0.0), 1.37, (0, 1, 2)),
        ((-0.1, 0.4, 0.5), 0.72, (0, 1, 2)),
        ((0.1, 0.0, 0.2), 3.0, (0, 1)),
        ((0.3, -0.5, 0.2), 0.8, tuple(range(0, 51, 3))),
    ],
)
def test_affine(image, angles, scale, labels):
    rng = np.random.default_rng(1)
    blocks = rng.choice(labels, (7, 6, 8))
    label = np.kron(blocks, np.ones((4, 4, 4), int))[: SHAPE[0], : SHAPE[1], : SHAPE[2]].astype(np.int16)
    size = (16, 20, 18)
    theirs = spatial.SpatialTransform(
        size,
        0,
        random_crop=False,
        p_rotation=1,
        rotation=lambda image, dim: angles[dim],
        p_scaling=1,
        scaling=scale,
        p_synchronize_scaling_across_axes=1,
        border_mode_seg="constant",
        padding_value_seg=-1,
    )
    parameters = theirs.get_parameters(image=first(image))
    expected = last(theirs._apply_to_image(first(image), **parameters))
    expected_label = theirs._apply_to_segmentation(torch.from_numpy(label)[None], **parameters)[0].numpy()
    matrix = transforms.affine_matrix(jnp.asarray(angles), jnp.full(3, scale))
    found, found_label = jax.jit(transforms.affine, static_argnums=(3, 4))(image, label, matrix, size, labels)
    # float32 coordinates of up to 30 voxels, the way there is not the same: 1e-5 voxels times slopes of about 5.
    np.testing.assert_allclose(found, expected, atol=1e-4)
    # torch's label scores are float16, so a voxel within 5e-4 of a tie may fall to the other label.
    assert np.mean(np.asarray(found_label) != expected_label) < 2e-3
    assert (expected_label == -1).any() == (np.asarray(found_label) == -1).any()


def test_affine_label_tie_goes_to_the_nearest_voxel():
    label = np.zeros((8, 8, 8), np.int16)
    label[4:] = 1
    image = np.zeros((8, 8, 8, 1), np.float32)
    _, found = jax.jit(transforms.affine, static_argnums=(3, 4))(image, label, jnp.eye(3), (7, 7, 7), (0, 1))
    assert set(np.unique(found)) <= {0, 1}
    assert np.array_equal(found, np.broadcast_to(np.asarray(found)[:, :1, :1], (7, 7, 7)))


def test_centre_crop_is_the_affine_identity_for_even_margins(image):
    label = np.zeros(SHAPE, np.int16)
    size = (16, 20, 18)
    same, _ = jax.jit(transforms.affine, static_argnums=(3, 4))(image, label, jnp.eye(3), size, (0, 1))
    np.testing.assert_allclose(same, transforms.centre_crop(jnp.asarray(image), size), atol=1e-6)


@pytest.mark.parametrize("sigma", [0.5, 0.55, 0.58, 0.75, 0.92, 1.0, 0.3])
def test_blur(image, sigma):
    theirs = GaussianBlurTransform(sigma, False, False, 1)
    sigmas = [[sigma, 0.5, 1.0], [1.0, sigma, 0.6]]
    expected = last(theirs._apply_to_image(first(image), apply_to_channel=torch.tensor([True, True]), sigmas=sigmas))
    found = jax.jit(transforms.blur)(image, jnp.asarray(sigmas))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("scale", [0.5, 0.61, 0.77, 0.99, 1.0])
def test_low_resolution(image, scale):
    theirs = SimulateLowResolutionTransform(scale, False, True, None, p_per_channel=1)
    scales = torch.tensor([[scale] * 3, [0.7] * 3])
    expected = last(theirs._apply_to_image(first(image), apply_to_channel=[0, 1], scales=scales))
    found = jax.jit(transforms.low_resolution)(image, jnp.asarray([scale, 0.7], jnp.float32))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_contrast(image):
    factors = torch.tensor([0.76, 1.24])
    expected = ContrastTransform(1, True, False)._apply_to_image(
        first(image), apply_to_channel=torch.tensor([0, 1]), multipliers=factors
    )
    found = transforms.contrast(jnp.asarray(image), jnp.asarray([0.76, 1.24]))
    np.testing.assert_allclose(found, last(expected), atol=1e-5)


@pytest.mark.parametrize("inverted", [False, True])
def test_gamma(image, inverted):
    exponents = torch.tensor([0.71, 1.48])
    expected = GammaTransform(1, 0, False, 1, 1)._apply_to_image(
        first(image),
        apply_to_channel=torch.tensor([0, 1]),
        retain_stats=torch.tensor([True, True]),
        invert_image=torch.tensor([inverted, inverted]),
        gamma=exponents,
    )
    sign = -1 if inverted else 1
    found = sign * transforms.gamma(sign * jnp.asarray(image), jnp.asarray([0.71, 1.48]))
    np.testing.assert_allclose(found, last(expected), atol=1e-5)


def test_a_constant_image_stays_finite():
    constant = jnp.ones((8, 8, 8, 1))
    for found in (
        transforms.contrast(constant, jnp.ones(1) * 1.2),
        transforms.gamma(constant, jnp.ones(1) * 1.2),
        transforms.blur(constant, jnp.ones((1, 3)) * 0.7),
    ):
        np.testing.assert_allclose(found, 1, atol=1e-6)


def test_brightness_mirror_and_mask(image):
    """What `augment_sample` does in line."""
    factors = torch.tensor([0.8, 1.2])
    every = torch.tensor([0, 1])
    brighter = MultiplicativeBrightnessTransform(1, False)._apply_to_image(
        first(image), apply_to_channel=every, multipliers=factors
    )
    np.testing.assert_allclose(jnp.asarray(image) * jnp.asarray([0.8, 1.2]), last(brighter), atol=1e-6)
    flipped = MirrorTransform((0, 2))._apply_to_image(first(image), axes=[0, 2])
    np.testing.assert_array_equal(jnp.flip(image, (0, 2)), last(flipped))


def test_the_chain_of_a_sample_is_nnunets_for_what_was_drawn(image, monkeypatch):
    """All intensity transforms, mirroring and the mask at once, in the order of nnU-Net's get_training_transforms."""
    drawn_or_not = {name: float(name not in ("rotation", "scaling")) for name in AUGMENT_PROBABILITIES}
    config = augment.AugmentConfig(**drawn_or_not)
    label = np.random.default_rng(2).integers(-1, 2, SHAPE).astype(np.int16)

    drawn, calls = [], {}
    spread = augment._about_one
    monkeypatch.setattr(augment, "_about_one", lambda *a: drawn.append(spread(*a)) or drawn[-1])
    for name in ("blur", "low_resolution"):
        whole = getattr(transforms, name)

        def record(x, parameter, name=name, whole=whole):
            calls[name] = (x, parameter)
            return whole(x, parameter)

        monkeypatch.setattr(transforms, name, record)
    with jax.disable_jit():  # so that the branches see numbers
        found, found_label = augment.augment_sample(
            jax.random.key(5), jnp.asarray(image), jnp.asarray(label), config, SHAPE, labels=(0, 1), zero_outside=True
        )
    noisy, sigmas = calls["blur"]
    assert 0 < float(jnp.std(noisy - image)) < 0.1
    brightness, contrast, inverted, gamma = (torch.from_numpy(np.array(d)) for d in drawn)
    every = torch.tensor([0, 1])

    def change_range(transform, x, invert, exponent):
        return transform._apply_to_image(
            x,
            apply_to_channel=every,
            retain_stats=torch.tensor([True, True]),
            invert_image=torch.tensor([invert, invert]),
            gamma=exponent,
        )

    x = first(np.asarray(noisy))
    x = GaussianBlurTransform(1.0, False, False, 1)._apply_to_image(
        x, apply_to_channel=torch.tensor([True, True]), sigmas=np.asarray(sigmas).tolist()
    )
    x = MultiplicativeBrightnessTransform(1, False)._apply_to_image(x, apply_to_channel=every, multipliers=brightness)
    x = ContrastTransform(1, True, False)._apply_to_image(x, apply_to_channel=every, multipliers=contrast)
    scales = torch.from_numpy(np.array(calls["low_resolution"][1]))[:, None].expand(-1, 3)
    x = SimulateLowResolutionTransform(1.0, False, True, None, p_per_channel=1)._apply_to_image(
        x, apply_to_channel=[0, 1], scales=scales
    )
    x = change_range(GammaTransform(1, 0, False, 1, 1), x, True, inverted)
    x = change_range(GammaTransform(1, 0, False, 1, 1), x, False, gamma)
    axes = [
        axes
        for n in range(4)
        for axes in itertools.combinations(range(3), n)
        if np.array_equal(np.flip(label, axes), found_label)
    ]
    assert len(axes) == 1
    batch = {"image": MirrorTransform((0, 1, 2))._apply_to_image(x, axes=list(axes[0]))}
    batch["segmentation"] = torch.from_numpy(np.array(found_label))[None]
    expected = last(MaskImageTransform([0, 1]).apply(batch)["image"])
    # Seven transforms of 1e-5 each, the gammas steep at the low end.
    np.testing.assert_allclose(found, expected, atol=1e-4)
