from __future__ import annotations

import numpy as np
import pytest

from mednext_jax.errors import InputError
from mednext_jax.simulate.acquisition import (
    add_rician_noise,
    draw_sites,
    refuse_unknown_contrast,
    shading_field,
    texture,
    tissue_signal,
    truncate_kspace,
)
from mednext_jax.simulate.template import load_template

pytestmark = pytest.mark.core


@pytest.mark.parametrize("factor", [(2, 2, 2), (2, 3, 1)])
def test_truncation_keeps_a_slow_wave_and_samples_it_at_voxel_centres(factor):
    shape, factor = (48, 54, 40), np.array(factor)
    kept = tuple(shape // factor)

    def wave(n, f):  # position in fine voxels of the centres of groups of f
        at = [np.arange(m) * g + (g - 1) / 2 for m, g in zip(n, f, strict=True)]
        x, y, z = np.meshgrid(*(p / s for p, s in zip(at, shape, strict=True)), indexing="ij")
        return 3 + np.cos(2 * np.pi * (2 * x + 1 * y - 3 * z)) + 0.5 * np.sin(2 * np.pi * 5 * y)

    got = truncate_kspace(wave(shape, (1, 1, 1)).astype(np.float32), factor)
    assert got.shape == kept
    np.testing.assert_allclose(got, wave(kept, factor), atol=2e-5)  # float32 transforms of values near 4


def test_truncation_keeps_the_mean_and_rings_at_an_edge():
    step = np.zeros((64, 8, 8), np.float32)
    step[17:47] = 1
    got = truncate_kspace(step, (2, 1, 1))
    assert got.mean() == pytest.approx(30 / 64, abs=1e-6)
    assert 1.02 < got.max() < 1.1  # Gibbs: at most 9 % over
    assert -0.1 < got.min() < -0.02


def test_noise_is_rician():
    rng = np.random.default_rng(0)
    dark = add_rician_noise(rng, np.zeros((60, 60, 60), np.float32), 5.0)
    assert dark.mean() == pytest.approx(5 * np.sqrt(np.pi / 2), rel=0.01)  # Rayleigh
    bright = add_rician_noise(rng, np.full((60, 60, 60), 500, np.float32), 5.0)
    assert bright.std() == pytest.approx(5, rel=0.02)  # 216 000 samples
    assert bright.mean() == pytest.approx(500 + 25 / 1000, abs=0.05)


def test_shading_is_smooth_and_bounded():
    field = shading_field(np.random.default_rng(1), (40, 50, 30), 0.3)
    assert field.dtype == np.float32
    assert np.abs(np.log(field)).max() == pytest.approx(np.log(1.3), rel=1e-5)
    assert np.abs(np.diff(field, axis=0)).max() < 0.1


def test_texture_has_the_asked_strength():
    assert texture(np.random.default_rng(1), (40, 40, 40), 1.2, 0.02).std() == pytest.approx(0.02, rel=1e-3)


@pytest.mark.parametrize("contrast", ["T1w", "T2w"])
def test_sites_differ_and_do_not_depend_on_how_many_there_are(contrast):
    sites = draw_sites(3, 7, contrast, 1.0)
    assert draw_sites(3, 4, contrast, 1.0) == sites[:4]
    assert draw_sites(4, 7, contrast, 1.0)[1:] != sites[1:]
    assert sites[0].voxel_size == (1.0, 1.0, 1.0)
    for field in ("name", "voxel_size", "snr", "shading", "scale"):
        assert len({getattr(site, field) for site in sites}) > 4, field
    low, high = {"T1w": (15, 40), "T2w": (20, 60)}[contrast]
    assert all(low <= site.snr <= high for site in sites)
    assert all(0.7 <= v <= 1.5 for site in sites for v in site.voxel_size)
    assert any(site.voxel_size[2] > site.voxel_size[0] for site in sites)


def test_t1w_signal_is_the_template_itself():
    template, site = load_template(), draw_sites(0, 1, "T1w", 1.0)[0]
    signal = tissue_signal(template, "T1w", site, np.zeros_like(template.t1))
    np.testing.assert_allclose(signal.volume, template.t1, atol=1e-3)
    assert signal.fluid < 0.5 * signal.white


def test_t2w_signal_orders_tissues_and_is_zero_outside_the_brain():
    template, site = load_template(), draw_sites(0, 1, "T2w", 1.0)[0]
    signal = tissue_signal(template, "T2w", site, np.zeros_like(template.t1))
    mean = {
        name: float(signal.volume[mask].mean())
        for name, mask in {
            "fluid": template.csf > 0.95,
            "cortex": (template.cortex > 0.95),
            "white": (template.white > 0.95) & (template.nuclei < 0.01),
            "pallidum": template.pallidum > 0.95,
        }.items()
    }
    assert mean["pallidum"] < mean["white"] < mean["cortex"] < mean["fluid"]
    assert mean["white"] == pytest.approx(signal.white, rel=0.03)
    assert mean["fluid"] == pytest.approx(signal.fluid, rel=0.05)
    assert not signal.volume[template.brain == 0].any()


def test_unknown_contrast_is_named():
    with pytest.raises(InputError, match="FLAIR"):
        refuse_unknown_contrast("FLAIR")
