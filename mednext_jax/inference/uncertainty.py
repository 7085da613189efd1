"""How far the members of a prediction agree: each model with each mirror on its own."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from mednext_jax.inference.on_device import LoadedScan, compute_evidence, to_host
from mednext_jax.inference.predictor import Predictor
from mednext_jax.io.nifti import from_volume
from mednext_jax.quantify.members import ENTROPY, SD_FOLDS, SD_MIRRORS, Members


def find_members(predictor: Predictor, loaded: LoadedScan) -> Members:
    """What each model finds with each mirror, and the maps of their standard deviations and of the mean's entropy.

    Costs once more what the scan itself does with all models and mirrors. A mirrored scan is computed on mirrored
    tiles, so that it is the tiles' mirror of the prediction. Standard deviations are those of a sample (n - 1); one
    model, or no mirrors, have none.
    """
    grid = loaded.grid
    assert grid is not None  # `Predictor.load` read it from a file
    decides = predictor.threshold_of(loaded)
    threshold = 0.5 if decides is None else decides
    models, mirrors = len(predictor.networks), _mirrors(predictor)
    shape = loaded.properties.shape
    by_mirror = [np.zeros(shape, np.float32) for _ in mirrors]
    middle, squares = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    found = []
    for model in range(models):
        mean = np.zeros(shape, np.float32)
        masks = []
        for j, probability in enumerate(_probabilities(predictor, loaded, model, mirrors)):
            masks.append(np.flatnonzero(from_volume(probability > threshold, grid)))
            mean += probability / len(mirrors)
            by_mirror[j] += probability / models
        found.append(masks)
        before = mean - middle  # Welford's sums, which do not cancel
        middle += before / (model + 1)
        squares += before * (mean - middle)
    maps = {}
    if models > 1:
        maps[SD_FOLDS] = np.sqrt(squares / (models - 1))
    if len(mirrors) > 1:
        maps[SD_MIRRORS] = np.std(by_mirror, axis=0, ddof=1)
    maps[ENTROPY] = _entropy(middle)
    return Members({name: from_volume(values.astype(np.float32), grid) for name, values in maps.items()}, found)


def _mirrors(predictor: Predictor) -> list[tuple[int, ...]]:
    """The axes that each mirror turns."""
    axes = predictor.window.mirror_axes
    return [chosen for n in range(len(axes) + 1) for chosen in itertools.combinations(axes, n)]


def _probabilities(
    predictor: Predictor, loaded: LoadedScan, model: int, mirrors: list[tuple[int, ...]]
) -> Iterator[np.ndarray]:
    """The foreground probability by one model and each mirror, (d, h, w) of the whole scan."""
    window = dataclasses.replace(predictor.window, mirror_axes=())
    placed = loaded.properties
    box = tuple(slice(o, o + n) for o, n in zip(placed.box_start, placed.box_shape, strict=True))
    for axes in mirrors:
        turned = _mirrored(loaded, axes, window.patch_size)
        evidence = compute_evidence(turned, [predictor.networks[model]], window)
        decided = predictor.decide(turned, evidence)
        _, probability = to_host(decided, turned.origin, placed, turned.foreground)
        probability[box] = np.flip(probability[box], axes)
        yield probability


def _mirrored(loaded: LoadedScan, axes: tuple[int, ...], patch: tuple[int, ...]) -> LoadedScan:
    """A scan with its box and its tiles mirrored."""
    if not axes:
        return loaded
    placed = loaded.properties
    box = tuple(slice(o, o + n) for o, n in zip(loaded.origin, placed.box_shape, strict=True))

    def turn(stored: np.ndarray) -> np.ndarray:
        turned = stored.copy()
        turned[box] = np.flip(stored[box], axes)
        return turned

    last = [max(n, p) - p for n, p in zip(placed.resampled_shape, patch, strict=True)]
    starts = loaded.starts.copy()
    for axis in axes:
        starts[:, axis] = last[axis] - starts[:, axis]
    return dataclasses.replace(
        loaded,
        volume=turn(loaded.volume),
        inside=None if loaded.inside is None else turn(loaded.inside),
        starts=starts,
        foreground=None if loaded.foreground is None else np.flip(loaded.foreground, axes),
    )


def _entropy(p: np.ndarray) -> np.ndarray:
    """The entropy of a yes or no with this probability, in bit."""
    p = np.clip(p, 1e-7, 1 - 1e-7).astype(np.float32)
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
