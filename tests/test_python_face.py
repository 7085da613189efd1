"""The Python names of the package: each command is one function with the command's options as keywords."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

import mednext_jax as mx
from mednext_jax.errors import InputError
from mednext_jax.moved import MOVED

pytestmark = pytest.mark.core

COMMANDS = {
    "simulate": {"out", "subjects", "contrast", "sites", "seed", "voxel_size"},
    "prepare": {"dataset", "out", "spacing", "splits", "labels", "suffix", "regions", "n4", "denoise", "brain_masks"},
    "train": {"config", "workdir"},
    "predict": {"inputs", "output", "models", "threshold", "tta", "step", "part", "brain_masks", "skip_background"},
    "report": {"out", "scans", "participants", "tables"},
    "quantify": {"mask", "probability", "regions", "out", "scans", "min_voxels", "connectivity", "split"},
    "evaluate": {"predictions", "references", "out", "regions"},
    "convert": {"source", "target", "to", "upkern"},
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_a_function_with_its_options_as_keywords(name):
    assert set(inspect.signature(getattr(mx, name)).parameters) >= COMMANDS[name]


def test_a_command_is_called_and_its_room_still_holds_its_files(tmp_path):
    from mednext_jax.evaluate import voxel

    with pytest.raises(InputError, match="nowhere"):
        mx.evaluate(tmp_path / "nowhere", tmp_path, tmp_path / "out")
    with pytest.raises(InputError, match="nowhere"):
        mx.convert(tmp_path / "nowhere", tmp_path / "model")
    assert mx.evaluate.voxel is voxel and callable(mx.convert.from_torch) and callable(mx.convert.to_torch)


def test_the_names_are_the_same_whatever_was_imported_first():
    code = "import mednext_jax.{0}.{1}, mednext_jax as mx; assert callable(mx.{0}) and mx.{0}.{1}"
    for room, file in (("simulate", "tubes"), ("prepare", "plan"), ("evaluate", "table")):
        subprocess.run([sys.executable, "-c", code.format(room, file)], check=True)


def test_every_public_name_is_there():
    assert all(getattr(mx, name) is not None for name in mx.__all__) and set(mx.__all__) <= set(dir(mx))


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_modules_keep_their_names_of_the_first_release(old, new):
    sys.modules.pop(f"mednext_jax.{old}", None)
    with pytest.warns(DeprecationWarning, match=f"{new} now"):
        found = importlib.import_module(f"mednext_jax.{old}")
    module = importlib.import_module(f"mednext_jax.{new}")
    assert found is module and module.__spec__.name == f"mednext_jax.{new}"
