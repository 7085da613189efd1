"""Models of overlapping regions as nnU-Net v2 folders: what its label manager reads, and what comes back."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest

from mednext_jax.convert.convert import convert
from mednext_jax.convert.sources import read_sources
from mednext_jax.errors import InputError
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.weights.directory import save_model
from mednext_jax.weights.names import expected_shapes, from_torch_names
from mednext_jax.weights.recipe import Recipe

TUMOUR = {"background": 0, "enhancing": 3, "whole": 2, "core": 1}  # the order of the names is not that of the outputs


def regions_model(path, labels, order, **recipe):
    """Random weights with one output a region, in the order in which they are written."""
    config = MedNeXtConfig(base_channels=2, expansion_ratios=(1,) * 9, block_counts=(1,) * 9, num_classes=len(order))
    rng = np.random.default_rng(0)
    state = {key: rng.standard_normal(shape, np.float32) for key, shape in expected_shapes(config).items()}
    recipe = Recipe(labels=labels, regions_class_order=order, spacing=(0.8, 0.7, 0.9), **recipe)
    return save_model(path, config, from_torch_names(config, state), recipe)


@pytest.mark.parametrize(
    ("labels", "order", "written"),
    [
        # BraTS as nnU-Net has it: 1 necrosis, 2 oedema, 3 enhancing; all, then the core, then the enhancing part
        (TUMOUR, (2, 1, 3), {"background": 0, "whole": [2, 1, 3], "core": [1, 3], "enhancing": 3}),
        ({"background": 0, "PVS": 1}, (1,), {"background": 0, "PVS": [1, 2]}),  # a list of one value is no region
    ],
)
def test_regions_are_written_as_nnunet_v2_writes_them_and_come_back(tmp_path, capsys, labels, order, written):
    pytest.importorskip("torch")
    model = regions_model(tmp_path / "model", labels, order)
    convert(model, tmp_path / "v2", to="nnunet-v2")
    dataset = json.loads((tmp_path / "v2/dataset.json").read_text())
    assert list(dataset["labels"].items()) == list(written.items())  # nnU-Net's outputs come in the order of the names
    assert dataset["regions_class_order"] == list(order)
    printed = capsys.readouterr().out
    assert "label values that make up each region" in printed and "largest probability" not in printed
    before, after = read_sources(model)[""], read_sources(tmp_path / "v2")["fold_0"]
    assert after.recipe.regions_class_order == order
    assert dict(after.recipe.labels) == labels
    assert after.config.num_classes == before.config.num_classes == len(order)


def test_without_regions_the_labels_are_values(tmp_path):
    pytest.importorskip("torch")
    config = MedNeXtConfig(base_channels=2, expansion_ratios=(1,) * 9, block_counts=(1,) * 9)
    rng = np.random.default_rng(0)
    state = {key: rng.standard_normal(shape, np.float32) for key, shape in expected_shapes(config).items()}
    save_model(tmp_path / "m", config, from_torch_names(config, state), Recipe(spacing=(1.0, 1.0, 1.0)))
    convert(tmp_path / "m", tmp_path / "v2", to="nnunet-v2")
    dataset = json.loads((tmp_path / "v2/dataset.json").read_text())
    assert dataset["labels"] == {"background": 0, "PVS": 1} and "regions_class_order" not in dataset


def test_the_threshold_of_regions_is_said(tmp_path, capsys):
    pytest.importorskip("torch")
    model = regions_model(tmp_path / "model", {"background": 0, "a": 1, "b": 2}, (1, 2), threshold=0.3)
    convert(model, tmp_path / "v2", to="nnunet-v2")
    assert "above 0.5, not by this model's threshold 0.3" in capsys.readouterr().out


def test_nnunet_v1_has_no_regions(tmp_path):
    pytest.importorskip("torch")
    model = regions_model(tmp_path / "model", {"background": 0, "a": 1, "b": 2}, (1, 2))
    with pytest.raises(InputError, match="no trainer of overlapping regions(.|\n)*nnunet-v2"):
        convert(model, tmp_path / "v1", to="nnunet-v1")
    assert not (tmp_path / "v1").exists()


def test_nnunets_own_label_manager_reads_the_regions(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("nnunetv2")
    managers = importlib.import_module("nnunetv2.utilities.label_handling.label_handling")
    model = regions_model(tmp_path / "model", TUMOUR, (2, 1, 3))
    convert(model, tmp_path / "v2", to="nnunet-v2")
    dataset = json.loads((tmp_path / "v2/dataset.json").read_text())
    manager = managers.LabelManager(dataset["labels"], dataset["regions_class_order"])
    assert manager.has_regions and manager.num_segmentation_heads == 3
    assert manager.foreground_regions == [(2, 1, 3), (1, 3), 3]
    # enhancing wins over core wins over whole, each above a half
    logits = np.array([[5, 5, 5, -5], [-5, 5, 5, -5], [-5, -5, 5, -5]], np.float32).reshape(3, 4, 1, 1)
    assert np.asarray(manager.convert_logits_to_segmentation(logits)).ravel().tolist() == [2, 1, 3, 0]
