"""One mask from several raters': by majority, or by STAPLE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mednext_jax.errors import InputError
from mednext_jax.io.geometry import bounding_box

# Raters who agree need about 20; for those who do not, ITK would go on for minutes.
ITERATIONS = 100


def simple_itk() -> Any:
    """The module SimpleITK; raises InputError if it (the `evaluate` extra) is not installed."""
    try:
        import SimpleITK
    except ImportError:
        raise InputError(
            "The raters' consensus (STAPLE) needs SimpleITK, which is not installed.",
            hint="pip install 'mednext-jax[evaluate]'",
        ) from None
    return SimpleITK


def majority(masks: Sequence[np.ndarray]) -> np.ndarray:
    """The voxels that more than half of the boolean masks hold; of two, those of both."""
    return np.asarray(np.stack(masks).sum(axis=0) * 2 > len(masks))


def staple(masks: Sequence[np.ndarray]) -> np.ndarray:
    """The voxels of probability 0.5 or more by STAPLE (Warfield et al. 2004), through SimpleITK.

    Estimated in the box around all masks, one voxel wider. Where a rater marked nothing STAPLE cannot judge them: then
    it is the majority. Raises InputError as `simple_itk` does.
    """
    sitk = simple_itk()
    if not all(mask.any() for mask in masks):
        return majority(masks)
    box = bounding_box(np.any(np.stack(masks), axis=0))
    assert box is not None
    wide = tuple(slice(max(0, part.start - 1), part.stop + 1) for part in box)
    filter_ = sitk.STAPLEImageFilter()
    filter_.SetForegroundValue(1)
    filter_.SetMaximumIterations(ITERATIONS)
    images = [sitk.GetImageFromArray(np.ascontiguousarray(mask[wide], np.uint8)) for mask in masks]
    consensus = np.zeros(masks[0].shape, bool)
    consensus[wide] = sitk.GetArrayFromImage(filter_.Execute(images)) >= 0.5
    return consensus
