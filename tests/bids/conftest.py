"""A tiny network with random weights, and a BIDS data set of two participants with sessions and runs."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pytest

from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.model.mednext import MedNeXt
from mednext_jax.weights.directory import save_model
from mednext_jax.weights.recipe import Recipe

CONFIG = MedNeXtConfig(base_channels=2, expansion_ratios=(1,) * 9, block_counts=(1,) * 9)
SCANS = (
    "sub-01/ses-1/anat/sub-01_ses-1_acq-hires_run-1_T2w",
    "sub-01/ses-2/anat/sub-01_ses-2_T2w",
    "sub-02/anat/sub-02_T2w",
    "sub-02/anat/sub-02_T1w",
)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A model directory of a network whose output varies over the volume."""
    shapes = jax.eval_shape(MedNeXt(CONFIG).init, jax.random.key(0), jnp.zeros((1, 16, 16, 16, 1)))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.4, leaf.shape).astype(np.float32), shapes)
    recipe = Recipe(channel_names=("T2w",), patch_size=(16, 16, 16))
    return save_model(tmp_path_factory.mktemp("model") / "model", CONFIG, params, recipe)


@pytest.fixture
def data_set(tmp_path):
    """A valid BIDS data set."""
    root = tmp_path / "raw"
    for number, name in enumerate(SCANS):
        path = root / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        voxels = np.random.default_rng(number).normal(300, 80, (20, 18, 22)).clip(1, 999).astype(np.int16)
        image = nib.Nifti1Image(voxels, np.diag([1.0, 1.1, 0.9, 1]))
        image.header.set_xyzt_units("mm", "sec")
        nib.save(image, path)
        (root / f"{name}.json").write_text("{}")
    about = {"Name": "Two heads", "BIDSVersion": "1.10.0", "DatasetType": "raw", "DatasetDOI": "doi:10.1234/x"}
    (root / "dataset_description.json").write_text(json.dumps(about))
    (root / "participants.tsv").write_text("participant_id\tage\nsub-01\t70\nsub-02\t61\n")
    (root / "README").write_text("Made for a test.\n" * 20)
    return root
