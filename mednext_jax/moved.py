"""Modules by their names of release 0.1.0: importing one gives the module of today, with a DeprecationWarning."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "model.directory": "weights.directory",
    "model.names": "weights.names",
    "model.recipe": "weights.recipe",
    "model.safetensors_file": "weights.safetensors_file",
    "train.config": "train.configuration",
    "inference.cohort": "inference.predict",
    "evaluate.folders": "evaluate.evaluate",
    "preprocess.prepare": "prepare.prepare",
}
_PACKAGE = __name__.rpartition(".")[0]


class _Moved(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the names of `MOVED`; asked only when no file has the name."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        package, _, rest = name.partition(".")
        return importlib.util.spec_from_loader(name, self) if package == _PACKAGE and rest in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = f"{_PACKAGE}.{MOVED[spec.name.partition('.')[2]]}"
        warnings.warn(f"{spec.name} is {new} now", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(new)
        self._own = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._own  # importing under the old name has changed it


def find_moved_modules() -> None:
    """Let the names of `MOVED` be imported."""
    sys.meta_path.append(_Moved())
