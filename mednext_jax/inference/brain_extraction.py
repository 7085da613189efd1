"""Brain masks by a tool that another package keeps and ships with its weights."""

from __future__ import annotations

import importlib.metadata
import threading
from collections.abc import Callable
from typing import Any

import nibabel as nib
import numpy as np

from mednext_jax.errors import InputError, WorkError
from mednext_jax.inference.scans import Scan
from mednext_jax.io.nifti import image_like, read_scan

DEEPBET = "deepbet"
# Fisch et al. 2024, doi:10.1016/j.compbiomed.2024.108845; trained on T1w scans of adults. MIT licence.
TOOLS = (DEEPBET,)


def named_tool(name: str | None) -> str | None:
    """A tool's name with its version, for the record of a run; raises InputError if it is not known or installed."""
    if name is None:
        return None
    if name not in TOOLS:
        raise InputError("The tool for brain extraction is not known.", expected=" or ".join(TOOLS), found=name)
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        hint = 'pip install "mednext-jax[brain]", or give your own masks: --brain-masks MASKS'
        raise InputError("The tool for brain extraction is not installed.", found=f"no {name}", hint=hint) from None


def open_brain_extraction(name: str | None) -> Callable[[Scan], tuple[nib.Nifti1Image, str]] | None:
    """A function from a scan to the mask of its brain, uint8 on its grid, and the tool's name; None for no tool.

    The first channel is what the tool sees. Raises InputError as `named_tool`.
    """
    named = named_tool(name)
    return None if named is None else _Deepbet(named)


class _Deepbet:
    """On the CPU: a GPU's memory is JAX's. One scan at a time, for the tool keeps what it found of one."""

    def __init__(self, named: str):
        self._named, self._one = named, threading.Lock()
        self._tool: Any = None

    def __call__(self, scan: Scan) -> tuple[nib.Nifti1Image, str]:
        image = read_scan(scan.files[0])
        with self._one:
            if self._tool is None:
                self._tool = _load()
            try:
                _, mask, _ = self._tool.run(nib.Nifti1Image(np.asarray(image.dataobj, np.float32), image.affine))
            except (AssertionError, IndexError, RuntimeError, ValueError) as error:
                raise WorkError(f"{self._named} found no brain: {error}") from None
        found = np.asarray(mask.dataobj) > 0
        if found.shape != image.shape or not found.any():
            raise WorkError(f"{self._named} found no brain.")
        return image_like(found.astype(np.uint8), image, np.uint8), self._named


def _load() -> Any:
    from deepbet import BrainExtraction  # seconds to import

    return BrainExtraction(no_gpu=True)
