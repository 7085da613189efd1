"""The scanner on the device: sampling, blur, noise, ghosts."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mednext_jax.simulate.device_scanner import Scanner, draw_scanner
from mednext_jax.simulate.generator_config import GeneratorConfig
from mednext_jax.simulate.random_fields import Draws

pytestmark = pytest.mark.core

SHAPE = (20, 26, 33)
DEFAULTS = GeneratorConfig()


@pytest.fixture(scope="module")
def drawn():
    """64 protocols of the defaults, stacked."""
    keys = jax.random.split(jax.random.key(2), 64)
    return jax.jit(jax.vmap(lambda key: draw_scanner(Draws(key), DEFAULTS, SHAPE)))(keys)


def protocol(**fields) -> Scanner:
    """A protocol without noise, ghosts, ringing and thick slices but for what is named."""
    still = {"noise": (1e-6, 1e-6), "ghosts": 0.0, "truncation": 0.0, "thick_slices": 0.0, "in_plane": (1.0, 1.0)}
    return draw_scanner(Draws(jax.random.key(0)), dataclasses.replace(DEFAULTS, **{**still, **fields}), SHAPE)


def test_sampling_keeps_a_flat_image_flat(drawn):
    for down, up, n in zip(drawn.down, drawn.up, SHAPE, strict=True):
        assert down.shape == up.shape == (64, n, n)
        rows = np.asarray(down.sum(2))
        used = np.asarray(up.sum(1)) > 0  # samples that something is made of
        np.testing.assert_allclose(rows[used], 1, atol=1e-5)
        np.testing.assert_allclose(up.sum(2), 1, atol=1e-5)
        assert float(up.min()) >= 0


def test_protocols_have_the_asked_spacing_noise_and_ghosts(drawn):
    spacing, noise, ghost = (np.asarray(a) for a in (drawn.spacing, drawn.noise, drawn.ghost))
    in_plane = np.sort(spacing, axis=1)[:, 0]
    thick = spacing.max(1) > in_plane + 1e-5
    assert DEFAULTS.in_plane[0] <= in_plane.min() and in_plane.max() <= DEFAULTS.in_plane[1]
    assert 0.1 < thick.mean() < 0.5 and spacing.max() <= DEFAULTS.slice_spacing[1]
    assert all((np.isclose(row, row.min()).sum() >= 2) for row in spacing)
    assert {int(axis) for axis in spacing[thick].argmax(1)} == {0, 1, 2}
    assert DEFAULTS.noise[0] <= noise.min() and noise.max() <= DEFAULTS.noise[1]
    assert 0 < (ghost > 0).mean() < 0.3
    low, high = DEFAULTS.ghost_strength
    assert low <= ghost[ghost > 0].min() and ghost.max() <= high


def test_what_is_expected_is_the_scan_without_noise_and_is_linear():
    scanner = protocol(thick_slices=1.0, slice_spacing=(3.0, 4.0))._replace(noise=jnp.zeros(()))
    rng = np.random.default_rng(0)
    one, other = (jnp.asarray(rng.random(SHAPE), jnp.float32) for _ in range(2))
    np.testing.assert_allclose(scanner.scan(Draws(jax.random.key(1)), one), scanner.expected(one), atol=2e-5)
    both = scanner.expected(one + 2 * other)
    np.testing.assert_allclose(both, scanner.expected(one) + 2 * scanner.expected(other), atol=2e-5)


@pytest.mark.parametrize("sigma", [0.6, 1.0])
def test_the_blur_has_its_width(sigma):
    """A point's image on 1 mm voxels: the variance of the point spread function and that of the sampled box."""
    scanner = protocol(blur=(sigma, sigma))
    for axis, n in enumerate(SHAPE):
        line = np.asarray(scanner.down[axis][n // 2])
        at = np.arange(n) - n // 2
        assert line @ at == pytest.approx(0, abs=1e-4)
        assert line @ at**2 == pytest.approx(sigma**2 + 0.04 / 12, rel=0.03)  # as whole voxels sample it


def test_slices_are_as_thick_as_their_spacing_without_the_gap():
    for gap in (0.0, 0.5):
        scanner = protocol(
            thick_slices=1.0, slice_spacing=(5.0, 5.0), slice_gap=(gap, gap), blur=(0.05, 0.05), in_plane=(1.0, 1.0)
        )
        axis = int(np.argmax(scanner.spacing))
        assert float(scanner.spacing[axis]) == pytest.approx(5)
        line = np.asarray(scanner.down[axis][1])
        at = np.arange(len(line)) - line @ np.arange(len(line))
        width = 5 * (1 - gap)
        # A box of the width and the blur, less what the voxels' own mean has done.
        assert line @ at**2 == pytest.approx((width**2 - 0.96) / 12 + 0.25**2, rel=0.15)


def test_truncation_rings_at_an_edge_and_noise_is_rician():
    step = jnp.zeros(SHAPE).at[:, 13:].set(1.0)
    rung = np.asarray(protocol(truncation=1.0).expected(step))
    assert rung.max() > 1.02 and rung.min() < -0.02
    assert np.asarray(protocol().expected(step)).max() <= 1 + 1e-5
    noisy = protocol(noise=(0.1, 0.1))
    dark = np.asarray(noisy.scan(Draws(jax.random.key(3)), jnp.zeros(SHAPE)))
    assert dark.mean() == pytest.approx(0.1 * np.sqrt(np.pi / 2), rel=0.02)  # Rayleigh; 17 160 voxels
    bright = np.asarray(noisy.scan(Draws(jax.random.key(3)), jnp.ones(SHAPE)))
    assert bright.std() == pytest.approx(0.1, rel=0.03)


def test_a_ghost_is_the_image_shifted_along_one_axis():
    scanner = protocol(blur=(0.05, 0.05))._replace(
        noise=jnp.zeros(()), ghost=jnp.asarray(0.2), ghost_axis=jnp.asarray(2), ghost_shift=jnp.asarray(9)
    )
    point = jnp.zeros(SHAPE).at[10, 12, 15].set(1.0)
    seen = np.asarray(scanner.scan(Draws(jax.random.key(0)), point))
    assert seen[10, 12, 15] == pytest.approx(0.8, abs=0.02) and seen[10, 12, 24] == pytest.approx(0.2, abs=0.02)
