"""What a configuration and a data set make together."""

import copy
import dataclasses

import jax
import numpy as np
import pytest

from mednext_jax.errors import InputError
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.model.mednext import MedNeXt
from mednext_jax.ops.local import LocalOps
from mednext_jax.train.configuration import TrainConfig
from mednext_jax.train.experiment import Experiment, _weights_of, fold_cases, to_host, warn_of_other_preparation
from mednext_jax.train.recipes import load_config
from mednext_jax.weights import packaged
from mednext_jax.weights.directory import load_model, save_model
from mednext_jax.weights.names import expected_shapes, from_torch_names
from mednext_jax.weights.recipe import Recipe
from mednext_jax.weights.upkern import upkern

pytestmark = pytest.mark.core


@pytest.fixture(scope="module")
def experiment(tiny):
    return Experiment.of(TrainConfig.of(tiny))


def test_folds(experiment):
    assert fold_cases(experiment.store, "0") == (("case_1", "case_2", "case_3"), ("case_0",))
    assert fold_cases(experiment.store, "all") == (experiment.store.ids, experiment.store.ids)


def test_validation_patches_show_background_even_where_training_patches_never_do(tiny):
    config = copy.deepcopy(tiny)
    config.foreground_fraction = 1.0
    experiment = Experiment.of(TrainConfig.of(config))
    assert experiment.training.foreground_fraction == 1.0
    assert experiment.validation.foreground_fraction == 0.33


def test_training_takes_kernels_whose_gradients_are_checked_too(tiny, monkeypatch):
    asked = []
    monkeypatch.setattr("mednext_jax.train.experiment.best_ops", lambda **how: asked.append(how) or LocalOps())
    architecture = Experiment.of(TrainConfig.of(tiny)).architecture
    (how,) = asked
    assert how["gradients"] and set(how["kinds"]) == {kind for kind, _, _ in architecture.blocks()}


def test_a_fold_without_validation_cases_is_refused(experiment):
    store = copy.copy(experiment.store)
    store.splits = [{"train": ["case_0"], "val": []}]
    with pytest.raises(InputError, match="no case in its 'val' part"):
        fold_cases(store, "0")


def test_the_restored_state_has_the_shapes_of_the_first(experiment):
    first, like = experiment.first_state(), experiment.state_like
    assert jax.tree.structure(first) == jax.tree.structure(like)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(like), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    # A weakly typed leaf comes back strongly typed from the first step, and the second compiles it again.
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(first))


def test_init_from_enlarges_kernels_and_drops_heads_that_are_not_wanted(tmp_path):
    small = MedNeXtConfig(base_channels=4, block_counts=(1,) * 9, deep_supervision=True)
    x = np.zeros((1, 16, 16, 16, 1), np.float32)
    params = to_host(jax.jit(MedNeXt(small).init)(jax.random.key(0), x)["params"])
    save_model(tmp_path / "model", small, params, Recipe(patch_size=(32, 32, 32)))
    large = dataclasses.replace(small, encoder_kernel_size=5, decoder_kernel_size=5, deep_supervision=False)
    config = TrainConfig(init_from=str(tmp_path / "model"), upkern=True)
    found = _weights_of(config, large)
    expected = upkern(small, params, 5)[1]
    kernel = found["enc_block_0"]["0"]["conv1"]["kernel"]
    assert kernel.shape[:3] == (5, 5, 5)
    np.testing.assert_array_equal(kernel, expected["enc_block_0"]["0"]["conv1"]["kernel"])
    assert "out_0" in found and "out_1" not in found

    with pytest.raises(InputError, match="encoder_kernel_size"):  # kernels do not shrink
        _weights_of(config, dataclasses.replace(small, encoder_kernel_size=5))
    with pytest.raises(InputError, match="block_counts"):
        _weights_of(config, dataclasses.replace(small, block_counts=(2,) * 9))
    with pytest.raises(InputError, match="upkern=true"):
        _weights_of(dataclasses.replace(config, upkern=False), large)


def one_region(path):
    """A model directory of a network of one region."""
    config = MedNeXtConfig(base_channels=2, block_counts=(1,) * 9, num_classes=1)
    state = {key: np.ones(shape, np.float32) for key, shape in expected_shapes(config).items()}
    recipe = Recipe(channel_names=("no normalisation",), normalisation=("none",), regions_class_order=(1,))
    return save_model(path, config, from_torch_names(config, state), recipe)


def test_a_model_of_one_region_continues_as_one_of_two_classes(tmp_path):
    model = load_model(one_region(tmp_path / "model"))
    wanted = dataclasses.replace(model.config, num_classes=2)
    found = _weights_of(TrainConfig(init_from=str(model.path)), wanted)
    assert found["out_0"]["conv_out"]["bias"].tolist() == [0, 1]


def test_the_packaged_model_is_called_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(packaged, "FOLDER", one_region(tmp_path / "model"))
    monkeypatch.chdir(tmp_path)
    config = TrainConfig.of(load_config("fine_tune", {"data": "prepared"}))
    assert config.init_from == packaged.NAME and config.model.base_channels == 2
    found = _weights_of(config, dataclasses.replace(config.model, num_classes=2))
    assert found["out_0"]["conv_out"]["bias"].tolist() == [0, 1]
    other = load_config(f"fine_tune:{tmp_path / 'model'}", {"data": "prepared"})
    assert other.init_from == str(tmp_path / "model") and other.patch_size == (128, 128, 128)


def test_scans_that_are_prepared_otherwise_than_the_first_weights_scans_are_told(tmp_path, caplog):
    model = one_region(tmp_path / "model")
    alike = Recipe(channel_names=("none",), normalisation=("none",))
    warn_of_other_preparation(str(model), alike)
    assert not caplog.messages
    warn_of_other_preparation(str(model), dataclasses.replace(alike, normalisation=("zscore",)))
    (said,) = caplog.messages
    assert "zscore" in said and "no normalisation" in said
