"""The simulated scanner: tissue signals, sites, k-space truncation, coil shading and noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.polynomial import legendre
from scipy import fft, ndimage

from mednext_jax.errors import InputError
from mednext_jax.simulate.template import Template

CONTRASTS = ("T1w", "T2w")
# Share of the way from the tissue's signal to fluid's, low + (high - low) * Beta: perivascular spaces are clear on
# T2w and hard to see on T1w (MedNet-PVS: voxel Dice 0.88 against 0.58 on the same people); FLAIR is taken for as hard.
_STRENGTH = {"T2w": (0.2, 0.9, 4.0, 2.0), "T1w": (0.2, 0.7, 2.0, 2.0), "FLAIR": (0.2, 0.7, 2.0, 2.0)}
PAINTED_CONTRASTS = tuple(sorted(_STRENGTH))  # that perivascular spaces can be painted into

# T2w signals of Bernal 2022 (LBC1936, Magn Reson Imaging 93:33); cortex a little brighter, as at 3 T with a long
# echo time, and the pallidum darker for its iron.
_T2W = {"white": 395.0, "grey": 500.0, "nuclei": 405.0, "pallidum": 320.0, "csf": 1152.0}


@dataclasses.dataclass(frozen=True)
class Site:
    """One simulated scanner and protocol."""

    name: str
    voxel_size: tuple[float, float, float]  # mm along x, y, z
    snr: float  # mean white matter signal / standard deviation of the noise
    shading: float  # largest deviation of the bias field from 1
    gamma: float  # exponent of the T1w contrast
    grey_gain: float  # T2w: factor on grey matter's difference from white matter
    fluid_gain: float  # T2w: factor on fluid's difference from white matter
    scale: float  # arbitrary units of the scanner


def draw_sites(seed: int, sites: int, contrast: str, voxel_size: float) -> list[Site]:
    """The first site is the plain one, isotropic voxels of `voxel_size` mm; the others differ from it in everything.

    Their voxels are 0.8 to 1.2 times as large (at least 0.7 mm), every third site's 1.5 times as thick along z.
    SNR 20 to 60 for T2w and 15 to 40 for T1w, shading up to 30 %. A site depends on (seed, its number) alone.
    """
    t2w = contrast == "T2w"
    result = [
        Site(
            name="site-1",
            voxel_size=(voxel_size,) * 3,
            snr=40.0 if t2w else 28.0,
            shading=0.15,
            gamma=1.0,
            grey_gain=1.0,
            fluid_gain=1.0,
            scale=1.0,
        )
    ]
    for number in range(1, sites):
        rng = np.random.default_rng([seed, number, 9])
        size = max(0.7, round(voxel_size * rng.uniform(0.8, 1.2), 2))
        thick = round(1.5 * voxel_size, 2)
        low, high = (20, 60) if t2w else (15, 40)
        result.append(
            Site(
                name=f"site-{number + 1}",
                voxel_size=(voxel_size, voxel_size, thick) if number % 3 == 2 else (size,) * 3,
                snr=float(low * (high / low) ** rng.uniform()),
                shading=float(rng.uniform(0.1, 0.3)),
                gamma=float(rng.uniform(0.85, 1.25)),
                grey_gain=float(rng.uniform(0.6, 1.4)),
                fluid_gain=float(rng.uniform(0.75, 1.25)),
                scale=float(np.exp(rng.uniform(-0.7, 0.7))),
            )
        )
    return result


@dataclasses.dataclass(frozen=True)
class Signal:
    """Noise-free signal on the template's grid, and the values of pure white matter and pure fluid."""

    volume: np.ndarray  # float32 (x, y, z)
    white: float
    fluid: float


def tissue_signal(template: Template, contrast: str, site: Site, sulci: np.ndarray) -> Signal:
    """What a site sees of a brain: the template's own intensities for T1w, a mixture of tissue signals for T2w.

    sulci: share of fluid (x, y, z) that is added on the template's grid.
    """
    if contrast == "T1w":
        top = float(template.t1.max())
        volume = (template.t1 / top) ** np.float32(site.gamma) * np.float32(top)
        white = float(np.median(volume[template.white > 0.95]))
        fluid = float(np.median(volume[(template.csf > 0.9) & (ndimage.uniform_filter(template.brain, 15) > 0.999)]))
    else:
        base = _T2W["white"]
        grey = base + site.grey_gain * (_T2W["grey"] - base)
        fluid, white = base + site.fluid_gain * (_T2W["csf"] - base), base
        volume = template.white * base + template.grey * grey + template.csf * np.float32(fluid)
        for part, map_ in (("nuclei", template.nuclei), ("pallidum", template.pallidum)):
            deep = base + site.grey_gain * (_T2W[part] - base)
            tissue = map_ * (1 - template.csf)
            volume += tissue * (np.float32(deep) - volume)
    volume += sulci * (np.float32(fluid) - volume)
    return Signal(np.where(template.brain > 0, volume, 0).astype(np.float32), white, fluid)


def draw_strengths(rng: np.random.Generator, contrast: str, count: int) -> np.ndarray:
    """Shares (count,) of the way from tissue to fluid, of perivascular spaces in a contrast of PAINTED_CONTRASTS."""
    low, high, a, b = _STRENGTH[contrast]
    return low + (high - low) * rng.beta(a, b, count)


def refuse_unknown_contrast(contrast: str) -> None:
    """Raise InputError unless `contrast` is one of CONTRASTS."""
    if contrast not in CONTRASTS:
        raise InputError(
            "There is no such contrast to simulate.", expected=" or ".join(CONTRASTS), found=repr(contrast)
        )


def truncate_kspace(volume: np.ndarray, factor: Sequence[int] | np.ndarray) -> np.ndarray:
    """Keep the middle 1/factor of k-space along each axis: float32 (x, y, z) -> (x/f, y/f, z/f).

    A sinc point spread function with its Gibbs ringing. A kept voxel is centred on the `factor` voxels it replaces.
    Extents must be multiples of the factor. One axis after another, so that the whole k-space never exists.
    """
    for axis in (2, 1, 0):  # the axis that is contiguous in memory while there is most of it
        f = int(factor[axis])
        if f == 1:
            continue
        n = volume.shape[axis]
        kept = n // f
        spectrum = fft.rfft(volume, axis=axis)
        spectrum = spectrum[tuple(slice(kept // 2 + 1) if a == axis else slice(None) for a in range(3))]
        phase = np.exp(1j * np.pi * (f - 1) / n * np.arange(kept // 2 + 1)).astype(np.complex64) / np.float32(f)
        spectrum = spectrum * phase.reshape([-1 if a == axis else 1 for a in range(3)])
        volume = fft.irfft(spectrum, n=kept, axis=axis)
    return volume


def shading_field(rng: np.random.Generator, shape: tuple[int, ...], amplitude: float) -> np.ndarray:
    """A bias field (x, y, z): exp of a random polynomial of degree 3, at most 1 + amplitude, 1 in the mean of logs."""
    degrees = np.add.outer(np.add.outer(np.arange(4), np.arange(4)), np.arange(4))
    coefficients = np.where((degrees > 0) & (degrees <= 3), rng.standard_normal((4, 4, 4)) / (1 + degrees), 0)
    x, y, z = (np.linspace(-1, 1, n) for n in shape)
    log = legendre.leggrid3d(x, y, z, coefficients)
    log *= np.log1p(amplitude) / np.abs(log).max()
    return np.exp(log, out=log).astype(np.float32)


def texture(rng: np.random.Generator, shape: tuple[int, ...], sigma: float, strength: float) -> np.ndarray:
    """Factors (x, y, z) around 1 that give tissue the fine unevenness that a group average has lost.

    sigma: correlation length in voxels; strength: standard deviation.
    """
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), sigma)
    return 1 + np.float32(strength / noise.std()) * noise


def add_rician_noise(rng: np.random.Generator, volume: np.ndarray, sigma: float) -> np.ndarray:
    """Magnitude of a complex image with Gaussian noise of standard deviation `sigma` in each channel."""
    real = volume + np.float32(sigma) * rng.standard_normal(volume.shape, np.float32)
    imaginary = np.float32(sigma) * rng.standard_normal(volume.shape, np.float32)
    return np.hypot(real, imaginary)
