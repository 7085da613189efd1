"""The model that comes inside the package: trained on simulated PVS alone, for labs without labels and weights."""

from __future__ import annotations

import os
from pathlib import Path

from mednext_jax.errors import InputError
from mednext_jax.weights.directory import DESCRIPTION

NAME = "without_labels"  # what `-m` and `init_from` call it
FOLDER = Path(__file__).with_name(NAME)
LARGEST = 12_000_000  # bytes of its weights


def packaged_model() -> Path:
    """The packaged model's directory; raises InputError if the installation lacks it."""
    if not (FOLDER / DESCRIPTION).is_file():
        raise InputError(
            "The model of the package is not there: the installation is not whole.",
            file=FOLDER,
            expected=DESCRIPTION,
            hint="install mednext-jax again, or name a model of yours",
        )
    return FOLDER


def or_packaged(given: str | os.PathLike) -> str | os.PathLike:
    """The packaged model's folder for its `NAME`, where no file is called so; anything else as it is."""
    return packaged_model() if given == NAME and not Path(given).exists() else given
