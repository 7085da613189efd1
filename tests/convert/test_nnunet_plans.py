"""nnU-Net's plans become a recipe that repeats what the tool would do."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pytest

from mednext_jax.convert.nnunet_plans import plan_of_v1, plan_of_v2, to_image_axes
from mednext_jax.convert.sources import read_sources
from mednext_jax.convert.torch_reader.pickle_reader import read_pickle
from mednext_jax.errors import InputError
from tests.convert.torch_archive import DATA, payload

pytestmark = pytest.mark.core


@pytest.fixture
def v1():
    data = (DATA / "model_final_checkpoint.model.pkl").read_bytes()
    return read_pickle(memoryview(data), file="x.pkl")


def test_v1_plans_beside_the_weights():
    recipe = read_sources(DATA / "model_final_checkpoint.model")[""].recipe
    assert recipe.patch_size == (128, 128, 128)
    assert recipe.spacing == (0.8, 0.8, 0.8)
    assert recipe.normalisation == ("zscore",)
    assert recipe.use_mask_for_norm is False
    assert recipe.channel_names == ("T2w",)
    assert recipe.labels == {"background": 0, "label_1": 1}
    assert recipe.mirror_axes == (0, 1, 2)
    assert recipe.average == "softmax"  # as v1's own inference
    assert recipe.orientation is None


def test_v1_provenance():
    source = read_sources(DATA / "model_final_checkpoint.model")[""]
    assert source.provenance["nnunet"]["trainer"] == "nnUNetTrainerV2_MedNeXt_L_kernel5_lr_3e_4_500epochs"
    assert len(source.provenance["source_sha256"]) == 64


def test_v1_of_several_channels_and_stages(v1):
    plans = v1["plans"]
    plans["num_modalities"], plans["num_classes"] = 2, 2
    plans["modalities"] = {0: "CT", 1: "T1w"}
    plans["normalization_schemes"] = {0: "CT", 1: "nonCT"}
    plans["use_mask_for_norm"] = {0: False, 1: True}
    values = {"mean": 1.0, "sd": 2.0, "percentile_00_5": -3.0, "percentile_99_5": 4.0}
    plans["dataset_properties"]["intensityproperties"] = {0: values, 1: values}
    plans["plans_per_stage"][1] = plans["plans_per_stage"][0] | {"patch_size": np.array([96, 160, 160])}
    v1["init"] = (*v1["init"][:5], 1, *v1["init"][6:])
    recipe = plan_of_v1(v1, file="x").recipe
    assert recipe.patch_size == (96, 160, 160)
    assert recipe.normalisation == ("ct", "zscore")
    assert recipe.use_mask_for_norm is True  # of the z-scored channel
    assert recipe.intensity_properties[0] == {
        "mean": 1.0,
        "std": 2.0,
        "percentile_00_5": -3.0,
        "percentile_99_5": 4.0,
    }
    v1["init"] = (*v1["init"][:5], None)
    assert plan_of_v1(v1, file="x").recipe.patch_size == (96, 160, 160)  # no stage: the full resolution


def test_v2_plans_inside_the_checkpoint():
    recipe = read_sources(DATA / "checkpoint_final.pth")[""].recipe
    assert recipe.patch_size == (64, 64, 64)  # 3d_small's own
    assert recipe.spacing == (1.0, 0.8, 0.8)  # inherited from 3d_fullres
    assert recipe.normalisation == ("ct",)
    assert recipe.intensity_properties[0]["percentile_99_5"] == 30.0
    assert recipe.labels == {"background": 0, "PVS": 1}
    assert recipe.mirror_axes == (0, 2)
    assert recipe.average == "logits"


def v2_plans() -> tuple[dict, dict]:
    from mednext_jax.convert.torch_reader.torch_file import TorchFile

    init = TorchFile(DATA / "checkpoint_final.pth").contents["init_args"]
    return json.loads(json.dumps(init["plans"])), json.loads(json.dumps(init["dataset_json"]))


def test_v2_files_beside_the_folds_are_preferred(tmp_path):
    plans, dataset = v2_plans()
    plans["configurations"]["3d_small"]["patch_size"] = [32, 48, 64]
    (tmp_path / "fold_0").mkdir()
    shutil.copy(DATA / "checkpoint_final.pth", tmp_path / "fold_0")
    (tmp_path / "plans.json").write_text(json.dumps(plans))
    (tmp_path / "dataset.json").write_text(json.dumps(dataset))
    assert read_sources(tmp_path)["fold_0"].recipe.patch_size == (32, 48, 64)


def test_an_axis_order_of_nnunets_own_is_turned_back():
    plans, dataset = v2_plans()
    plans["transpose_forward"] = [2, 0, 1]
    plans["configurations"]["3d_small"]["patch_size"] = [16, 32, 48]
    plan = plan_of_v2(plans, dataset, "3d_small", [0], file="x")
    assert plan.recipe.patch_size == (32, 48, 16)  # network axis 0 is image axis 2
    assert plan.recipe.spacing == (0.8, 0.8, 1.0)
    assert plan.recipe.mirror_axes == (2,)
    # the same correlation before and after: of a scan, and of the transposed scan with the network's kernel
    rng = np.random.default_rng(0)
    scan, kernel = rng.standard_normal((3, 3, 3)), rng.standard_normal((3, 3, 3, 1))
    ours = (scan * to_image_axes(kernel, plan.transpose)[..., 0]).sum()
    theirs = (scan.transpose(plan.transpose) * kernel[..., 0]).sum()
    assert abs(ours - theirs) < 1e-12


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p, d: p.pop("configurations"), "configurations"),
        (lambda p, d: p["configurations"]["3d_small"].update(inherits_from="nowhere"), "nowhere"),
        (lambda p, d: p["configurations"]["3d_small"].update(patch_size=[64, 64]), "3D"),
        (lambda p, d: p["configurations"]["3d_small"].update(patch_size=[60, 64, 64]), "patch_size"),
        (lambda p, d: p["configurations"]["3d_small"].update(patch_size="large"), "3D"),
        (lambda p, d: p["configurations"]["3d_small"].update(normalization_schemes=["RGBTo01Normalization"]), "RGB"),
        (lambda p, d: d["labels"].update(PVS=[1, 2]), "regions"),
        (lambda p, d: d["labels"].update(PVS="x"), "plans"),
        (lambda p, d: d.pop("channel_names"), "modality"),
        (lambda p, d: p.update(transpose_forward=[0, 0, 1]), "3D"),
    ],
)
def test_plans_that_make_no_sense_are_refused(change, words):
    plans, dataset = v2_plans()
    change(plans, dataset)
    with pytest.raises(InputError, match=words):
        plan_of_v2(plans, dataset, "3d_small", None, file="plans.json")


@pytest.mark.parametrize("content", [[], {}, {"plans": {}}, {"plans": {"plans_per_stage": {}}}, "text", None])
def test_a_pickle_that_holds_no_plans_is_refused(content):
    with pytest.raises(InputError, match="plans cannot be understood"):
        plan_of_v1(content, file="x.pkl")


def test_the_ignore_label_is_no_class():
    plans, dataset = v2_plans()
    dataset["labels"]["ignore"] = 2
    assert plan_of_v2(plans, dataset, "3d_small", None, file="x").recipe.labels == {"background": 0, "PVS": 1}


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_hostile_plans_do_nothing(tmp_path, protocol):
    shutil.copy(DATA / "model_final_checkpoint.model", tmp_path)
    (tmp_path / "model_final_checkpoint.model.pkl").write_bytes(payload(tmp_path / "marker", protocol))
    with pytest.raises(InputError, match=r"model\.pkl"):
        read_sources(tmp_path)
    assert not (tmp_path / "marker").exists()
    pickle.loads((tmp_path / "model_final_checkpoint.model.pkl").read_bytes())
    assert (tmp_path / "marker").exists()


def test_plans_of_other_channels_than_the_network_are_refused(tmp_path, v1):
    shutil.copy(DATA / "model_final_checkpoint.model", tmp_path)
    v1["plans"]["num_classes"] = 4
    (tmp_path / "model_final_checkpoint.model.pkl").write_bytes(pickle.dumps(v1))
    with pytest.raises(InputError, match="labels"):
        read_sources(tmp_path)
