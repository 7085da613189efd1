"""MedNeXt in JAX/Flax: segmentation of perivascular spaces in brain MRI. Not for clinical use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from mednext_jax.moved import find_moved_modules
from mednext_jax.version import __version__ as __version__

if TYPE_CHECKING:
    from mednext_jax import convert as convert
    from mednext_jax import evaluate as evaluate
    from mednext_jax import prepare as prepare
    from mednext_jax import quantify as quantify
    from mednext_jax import report as report
    from mednext_jax import simulate as simulate
    from mednext_jax import train as train
    from mednext_jax.errors import InputError as InputError
    from mednext_jax.inference.predict import predict as predict
    from mednext_jax.inference.predictor import Predictor as Predictor
    from mednext_jax.model.config import MedNeXtConfig as MedNeXtConfig
    from mednext_jax.model.mednext import MedNeXt as MedNeXt
    from mednext_jax.weights.directory import load_model as load_model
    from mednext_jax.weights.directory import save_model as save_model

find_moved_modules()

# Packages that are called as the command that they hold (`command_room`).
_ROOMS = ("convert", "evaluate", "prepare", "quantify", "report", "simulate", "train")
# Imported on first use: `mednext-jax --help` and the NIfTI tools must not wait for JAX.
_HOMES = {
    "InputError": "mednext_jax.errors",
    "MedNeXt": "mednext_jax.model.mednext",
    "MedNeXtConfig": "mednext_jax.model.config",
    "Predictor": "mednext_jax.inference.predictor",
    "load_model": "mednext_jax.weights.directory",
    "predict": "mednext_jax.inference.predict",
    "save_model": "mednext_jax.weights.directory",
}

__all__ = [
    *("InputError", "MedNeXt", "MedNeXtConfig", "Predictor", "load_model", "save_model"),
    *("convert", "evaluate", "predict", "prepare", "quantify", "report", "simulate", "train"),
]


def __getattr__(name: str) -> object:
    if name in _ROOMS:
        return importlib.import_module(f"mednext_jax.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
