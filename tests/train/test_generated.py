"""Training on patches that the device makes, in a folder of two small heads: one for training, one for validation."""

from __future__ import annotations

import copy
import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.data.batches import batches
from mednext_jax.data.case_store import CaseStore
from mednext_jax.errors import InputError
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.simulate.generator import IGNORED, LESION, PVS
from mednext_jax.simulate.generator_config import GeneratorConfig
from mednext_jax.simulate.heads import anatomies_of
from mednext_jax.train.configuration import TrainConfig, architecture
from mednext_jax.train.generated import FOLDER, GeneratedPatches, simulated_scans, trained_outputs
from mednext_jax.train.recipes import load_config
from mednext_jax.train.train import train
from mednext_jax.weights.directory import load_model
from tests.simulate.heads import head_map

pytestmark = pytest.mark.core

# Compiling is what these tests cost: the parts of the generator that are not this file's subject are off.
LITTLE = {"texture": False, "confounders": False, "acquisition": False, "hippocampus": (0, 0), "midbrain": (0, 0)}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    for name, values in (("a", head_map()), ("b", head_map()[:, :, ::-1])):
        nib.Nifti1Image(values.transpose(2, 1, 0), np.eye(4)).to_filename(folder / f"{name}.nii.gz")
    config = load_config("without_labels:small")
    config.patch_size, config.batch_size = (16, 16, 16), 1
    config.steps, config.steps_per_epoch, config.validation_steps = 2, 2, 1
    config.checkpoint.steps, config.final_validation = 1, False
    network = MedNeXtConfig(base_channels=2, expansion_ratios=(1,) * 9, block_counts=(1,) * 9)
    config.model = architecture(network)
    config.generator.anatomy = str(folder)
    config.generator.held_out, config.generator.validation_scans = 1, 2
    config.generator.update(LITTLE)
    return config


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "work"
    train(config, workdir)
    return workdir


def test_a_batch_says_only_which_row_is_whose():
    (first, second) = batches(GeneratedPatches(3), 4, 6)
    assert sorted(first) == ["case", "row"]
    np.testing.assert_array_equal(first["row"], (0, 1, 2))
    np.testing.assert_array_equal(second["row"], first["row"])


def test_lesions_are_learned_as_an_output_of_their_own():
    both, one = (trained_outputs(GeneratorConfig(lesions_as_output=on)) for on in (True, False))
    assert both == (2, ((PVS,), (LESION,)), IGNORED)
    assert one == (1, ((PVS,),), IGNORED)


@pytest.mark.slow  # the generator and the step take minutes to compile
def test_a_run_needs_no_data_and_leaves_a_model_of_one_output(run, config):
    model = load_model(run / "model")
    assert model.config.num_classes == 1 and model.recipe.regions_class_order == (1,)
    assert model.recipe.normalisation == ("zscore_bright_fluid",)
    store = CaseStore.open(run / FOLDER)
    assert sorted(store.meta.cases) == ["sub-001_T1w", "sub-002_T2w"]
    assert "1 (" in store.meta.name and store.meta.ignore_label == 2
    assert not [path for path in run.iterdir() if path.name.startswith(f".{FOLDER}")]
    _, label = store.read("sub-001_T1w")
    assert {0, 1} <= set(np.unique(label).tolist()) <= {-1, 0, 1, 2}


@pytest.mark.slow  # the generator and the step take minutes to compile
def test_a_run_goes_on_from_the_weights_of_another_with_one_output(run, config, tmp_path):
    longer = copy.deepcopy(config)
    longer.init_from, longer.generator.lesions_as_output = str(run / "model"), False
    longer.seed, longer.optimiser.learning_rate = 1, 1e-9  # other first weights, which stay nearly as they are
    train(longer, tmp_path / "longer")
    start, end = (load_model(folder / "model").params for folder in (run, tmp_path / "longer"))
    np.testing.assert_allclose(end["stem"]["kernel"], start["stem"]["kernel"], atol=1e-7)  # two steps of such a rate


@pytest.mark.slow  # the generator and the step take minutes to compile
def test_a_stopped_run_continues_bit_for_bit(run, config, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    shutil.rmtree(other / "model")
    shutil.rmtree(other / "checkpoints" / "2")
    train(config, other)
    straight, resumed = (load_model(folder / "model").params for folder in (run, other))
    for name, leaf in straight.items():
        for key, value in leaf.items() if isinstance(leaf, dict) else [("", leaf)]:
            np.testing.assert_equal(resumed[name][key] if key else resumed[name], value)


@pytest.mark.slow  # the generator and the step take minutes to compile
def test_a_start_that_was_killed_after_simulating_can_be_repeated_with_its_own_generator(run, config, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copytree(run / FOLDER, other / FOLDER)
    shutil.copy(run / "config.json", other)
    changed = copy.deepcopy(config)
    changed.generator.bend = 0.3
    with pytest.raises(InputError, match="another configuration of the generator"):
        train(changed, other)
    own = TrainConfig.of(config)
    assert simulated_scans(own, anatomies_of(own.generator), other) == other / FOLDER
    assert json.loads((other / "config.json").read_text())["generator"]["bend"] == config.generator.bend


@pytest.mark.slow  # the generator and the step take minutes to compile
def test_other_label_maps_do_not_continue_a_run(run, config, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    shutil.rmtree(other / "model")
    folder = tmp_path / "heads"
    shutil.copytree(config.generator.anatomy, folder)
    changed = copy.deepcopy(config)
    changed.generator.anatomy = str(folder)
    written = json.loads((other / "config.json").read_text())
    written["generator"]["anatomy"] = str(folder)
    (other / "config.json").write_text(json.dumps(written))
    values = head_map()
    values[values == 12] = 2  # an anatomy that was edited between the two
    nib.Nifti1Image(values.transpose(2, 1, 0), np.eye(4)).to_filename(folder / "a.nii.gz")
    with pytest.raises(InputError, match="not those that this run started with"):
        train(changed, other)


def test_a_broken_anatomy_is_named_before_anything_is_simulated(config, tmp_path):
    folder = tmp_path / "heads"
    shutil.copytree(config.generator.anatomy, folder)
    (folder / "c.nii.gz").write_bytes(b"no image")
    changed = copy.deepcopy(config)
    changed.generator.anatomy = str(folder)
    with pytest.raises(InputError, match="c.nii.gz"):
        train(changed, tmp_path / "work")
    assert not (tmp_path / "work" / FOLDER).exists()
