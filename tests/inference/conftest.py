"""A tiny network with random weights as a model directory, and scans; compiled once for the folder's tests."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pytest

from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.model.mednext import MedNeXt
from mednext_jax.weights.directory import load_model, save_model
from mednext_jax.weights.recipe import Recipe

CONFIG = MedNeXtConfig(base_channels=2, expansion_ratios=(1,) * 9, block_counts=(1,) * 9)
RECIPE = Recipe(channel_names=("T2w",), patch_size=(16, 16, 16))


def random_params(config, seed):
    """Weights of a size that makes the output vary over the volume, without compiling an initialiser."""
    x = jnp.zeros((1, 16, 16, 16, config.in_channels))
    shapes = jax.eval_shape(MedNeXt(config).init, jax.random.key(0), x)["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.4, leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Two model directories of one architecture: paths."""
    folder = tmp_path_factory.mktemp("models")
    return [save_model(folder / f"fold_{i}", CONFIG, random_params(CONFIG, i), RECIPE) for i in range(2)]


@pytest.fixture(scope="session")
def variant(models, tmp_path_factory):
    """A function: the first model's weights with another recipe, as a directory."""

    def save(**fields):
        model = load_model(models[0])
        path = tmp_path_factory.mktemp("variant") / "model"
        return save_model(path, model.config, model.params, dataclasses.replace(RECIPE, **fields))

    return save


@pytest.fixture(scope="session")
def save_scan():
    """A function that writes a random scan and returns its path."""
    return _save_scan


@pytest.fixture(scope="module")
def scans(save_scan, tmp_path_factory):
    """Three scans of three shapes in one bucket."""
    folder = tmp_path_factory.mktemp("scans")
    for i, shape in enumerate([(24, 22, 20), (20, 30, 17), (18, 19, 31)]):
        save_scan(folder / f"case{i}_0000.nii.gz", shape, seed=i)
    return folder


def _save_scan(path, shape=(24, 22, 20), seed=0, affine=None, dtype=np.int16, dark=0):
    """A random scan; `dark` planes at the start of the first axis are 0. qform and sform differ in their codes."""
    rng = np.random.default_rng(seed)
    array = rng.normal(300, 80, shape).clip(1, 1000)
    array[:dark] = 0
    image = nib.Nifti1Image(array.astype(dtype), np.diag([1.0, 1.1, 0.9, 1]) if affine is None else affine)
    image.set_sform(image.affine, code=4)
    image.set_qform(image.affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path
