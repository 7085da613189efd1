"""UpKern: start a large-kernel MedNeXt from a small-kernel one (Roy et al. 2023; upstream's `upkern_load_weights`).

Only the depthwise kernels change: each is resampled trilinearly, as F.interpolate(align_corners=False) does, with
no renormalisation. The resampling is separable, so one small matrix acts on each of the three axes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from mednext_jax.errors import InputError
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.weights.names import Params


def upkern_matrix(old: int, new: int) -> np.ndarray:
    """Rows are the new taps as weighted sums of the old ones, (new, old) float64."""
    centre = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.minimum(np.floor(centre).astype(int), old - 1)
    high = np.minimum(low + 1, old - 1)
    weight = centre - low
    matrix = np.zeros((new, old))
    np.add.at(matrix, (np.arange(new), low), 1 - weight)
    np.add.at(matrix, (np.arange(new), high), weight)
    return matrix


def upkern(config: MedNeXtConfig, params: Params, kernel_size: int) -> tuple[MedNeXtConfig, Params]:
    """A network with its depthwise kernels resized to `kernel_size`; other parameters are shared, not copied.

    Raises InputError if a kernel would shrink, or `kernel_size` is even.
    """
    largest = max(config.encoder_kernel_size, config.decoder_kernel_size)
    if kernel_size < largest or kernel_size % 2 == 0:
        raise InputError(
            "UpKern enlarges kernels to an odd size.",
            expected=f"an odd size of at least {largest}",
            found=str(kernel_size),
        )
    target = dataclasses.replace(config, encoder_kernel_size=kernel_size, decoder_kernel_size=kernel_size)

    def resample(tree: dict[str, Any], in_depthwise: bool = False) -> dict[str, Any]:
        return {
            name: resample(value, name == "conv1")
            if isinstance(value, dict)
            else _enlarge(value, kernel_size)
            if in_depthwise and name == "kernel"
            else value
            for name, value in tree.items()
        }

    return target, resample(params)


def _enlarge(kernel: np.ndarray, size: int) -> np.ndarray:
    kernel = np.asarray(kernel)
    if kernel.shape[0] == size:
        return kernel
    m = upkern_matrix(kernel.shape[0], size)
    # (k, k, k, c) -> (size, size, size, c)
    return np.einsum("ai,bj,ck,ijkn->abcn", m, m, m, kernel, optimize=True).astype(np.float32)
