"""Every transform equals batchgeneratorsv2's for the same parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mednext_jax.data import transforms

torch = pytest.importorskip("torch")
spatial = pytest.importorskip("batchgeneratorsv2.transforms.spatial.spatial")
from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform  # noqa: E402
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform  # noqa: E402
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform  # noqa: E402
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform  # noqa: E402

SHAPE = (26, 24, 30)


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    return rng.normal(size=(*SHAPE, 2)).astype(np.float32)


def first(x):
    return torch.from_numpy(np.moveaxis(x, -1, 0).copy())


def last(x):
    return np.moveaxis(x.numpy(), 0, -1)


@pytest.mark.parametrize("labels", [(0, 1), (0, 1, 2)])
@pytest.mark.parametrize(
    ("angles", "scale"), [((0.3, -0.5, 0.2), 1.0), ((0.0, 0.0, 0.0), 1.37), ((-0.1, 0.4, 0.5), 0.72)]
)
def test_affine(image, angles, scale, labels):
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, len(labels), (7, 6, 8))
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
