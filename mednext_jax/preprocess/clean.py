"""Heavier preprocessing, each step off by default: bias correction, denoising, brain extraction from a given mask.

MedNet-PVS found that such steps cost a little Dice on T1w scans; they are here to repeat that comparison. SimpleITK
does the work (`pip install 'mednext-jax[preprocess]'`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mednext_jax.errors import InputError

STEPS = ("n4", "denoise", "brain")  # in the order in which they are done
# The field is smooth: N4 fits it on every fourth voxel, its authors' own advice.
SHRINK = 4
FIT_ITERATIONS = (50, 50, 50, 50)  # of N4's levels, each with twice the control points of the one before
DIFFUSION_ITERATIONS = 5
CONDUCTANCE = 1.0  # edges steeper than this many mean gradients stay


def clean(volume: np.ndarray, spacing: Sequence[float], steps: Sequence[str], brain: np.ndarray | None) -> np.ndarray:
    """The volume float32 (d, h, w, c) after `steps` (of `STEPS`, in its order); voxels that are zero stay zero.

    `spacing` in mm (d, h, w). "n4": N4 bias field correction, fitted inside `brain`, else above Otsu's threshold.
    "denoise": curvature-driven anisotropic diffusion. "brain": zero where `brain` (d, h, w) is not set.
    Source: ITK's N4BiasFieldCorrectionImageFilter (Tustison et al. 2010), CurvatureAnisotropicDiffusionImageFilter.
    Raises InputError if SimpleITK or the brain mask is missing.
    """
    packages(steps)
    if not steps:
        return volume
    if "brain" in steps and brain is None:
        raise InputError("A brain mask is needed.", expected="a mask on the scan's grid", found="none")
    channels = []
    for channel in np.moveaxis(volume, -1, 0):
        cleaned = channel
        if "n4" in steps:
            cleaned = _n4(cleaned, spacing, brain)
        if "denoise" in steps:
            cleaned = _denoise(cleaned, spacing)
        channels.append(np.where(channel == 0, 0, cleaned))
    done = np.stack(channels, -1).astype(np.float32)
    if brain is not None and "brain" in steps:
        done[brain == 0] = 0
    return done


def packages(steps: Sequence[str]) -> tuple[str, ...]:
    """The packages that do `steps`; raises InputError if one is not installed."""
    if not {"n4", "denoise"} & set(steps):
        return ()
    return (_simple_itk().__name__,)


def _n4(channel: np.ndarray, spacing: Sequence[float], brain: np.ndarray | None) -> np.ndarray:
    sitk = _simple_itk()
    image = _image(channel, spacing)
    mask = sitk.OtsuThreshold(image, 0, 1) if brain is None else _image((brain != 0).astype(np.uint8), spacing)
    correction = sitk.N4BiasFieldCorrectionImageFilter()
    correction.SetMaximumNumberOfIterations(FIT_ITERATIONS)
    shrink = [min(SHRINK, size) for size in image.GetSize()]
    correction.Execute(sitk.Shrink(image, shrink), sitk.Shrink(mask, shrink))
    field = sitk.GetArrayFromImage(correction.GetLogBiasFieldAsImage(image))
    return channel / np.exp(field)


def _denoise(channel: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    sitk = _simple_itk()
    smooth = sitk.CurvatureAnisotropicDiffusion(
        _image(channel, spacing),
        timeStep=min(spacing) / 2**4,  # the largest that is stable in three dimensions
        conductanceParameter=CONDUCTANCE,
        numberOfIterations=DIFFUSION_ITERATIONS,
    )
    return sitk.GetArrayFromImage(smooth)


def _image(array: np.ndarray, spacing: Sequence[float]) -> Any:
    image = _simple_itk().GetImageFromArray(np.ascontiguousarray(array))  # (d, h, w) = (z, y, x), as SimpleITK's
    image.SetSpacing([float(size) for size in reversed(spacing)])
    return image


def _simple_itk() -> Any:
    try:
        import SimpleITK
    except ImportError as error:
        raise InputError(
            "Bias correction and denoising need SimpleITK, which is not installed.",
            hint="pip install 'mednext-jax[preprocess]'",
        ) from error
    return SimpleITK
