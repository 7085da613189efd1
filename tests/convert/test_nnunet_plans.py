"""nnU-Net's plans become a recipe that repeats what the tool would do."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil

import numpy as np
import pytest

from mednext_jax.convert.nnunet_plans import plan_of_v1, plan_of_v2, to_image_axes
from mednext_jax.convert.sources import read_sources
from mednext_jax.convert.torch_reader.pickle_reader import read_pickle
from mednext_jax.errors import InputError
from mednext_jax.preprocess.normalise import SCHEMES, Scheme
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


def test_plans_may_ask_for_any_scheme_that_has_a_name_in_them(v1, monkeypatch):
    monkeypatch.setitem(SCHEMES, "halves", Scheme(SCHEMES["none"].find, nnunet_v1=("Half",), nnunet_v2=("Halving",)))
    plans, dataset = v2_plans()
    plans["configurations"]["3d_small"]["normalization_schemes"] = ["Halving"]
    assert plan_of_v2(plans, dataset, "3d_small", (0, 1, 2), file="x").recipe.normalisation == ("halves",)
    v1["plans"]["normalization_schemes"] = {0: "Half"}
    assert plan_of_v1(v1, file="x").recipe.normalisation == ("halves",)


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
        (lambda p, d: d["labels"].update(PVS=[1, 2]), "regions_class_order"),
        (lambda p, d: d.update(labels={"a": [1, 2], "b": 2}, regions_class_order=[1, 3]), "regions_class_order"),
        (lambda p, d: d.update(labels={"a": [1, 2], "b": 2}, regions_class_order=[1, [2]]), "plans"),
        (lambda p, d: d.update(labels={f"l{i}": i for i in range(5000)}), "labels: 5000"),
        (lambda p, d: p["configurations"]["3d_small"].update(inherits_from="3d_small"), "inherits from itself"),
        (lambda p, d: p["configurations"]["3d_small"].update(normalization_schemes=[{}]), "normalisation"),
        (lambda p, d: p["configurations"]["3d_small"].update(spacing=[1.0]), "spacings"),
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


@pytest.mark.parametrize(
    ("plans_reader", "wished", "orientation", "noted"),
    [
        ("SimpleITKIO", None, None, False),
        ("NibabelIO", None, None, False),
        ("Tiff3DIO", None, None, False),
        ("NaturalImage2DIO", None, None, False),
        ("NibabelIOWithReorient", None, "RAS", False),
        ("SimpleITKIOWithReorient", None, "RAS", False),
        (None, "NibabelIOWithReorient", "RAS", False),
        (None, "None", None, True),
        (None, None, None, True),
        # nnUNetv2_predict reads with the plans' reader
        ("SimpleITKIO", "NibabelIOWithReorient", None, False),
        ("NibabelIOWithReorient", "SimpleITKIO", "RAS", False),
        ("MyOwnIO", None, None, True),
    ],
)
def test_the_reader_says_how_scans_are_turned(plans_reader, wished, orientation, noted):
    plans, dataset = v2_plans()
    plans |= {"image_reader_writer": plans_reader} if plans_reader else {}
    dataset |= {"overwrite_image_reader_writer": wished} if wished else {}
    plan = plan_of_v2(plans, dataset, "3d_small", [0], file="x")
    assert plan.recipe.orientation == orientation
    assert any("axes as the scan is stored" in note for note in plan.notes) == noted
    assert plan.facts["reader"] == (plans_reader or ("NibabelIOWithReorient" if orientation else "not named"))


def test_v1_says_that_axes_are_as_stored(v1):
    assert "axes as the scan is stored" in plan_of_v1(v1, file="x").notes[0]


def test_overlapping_regions_keep_their_order():
    plans, dataset = v2_plans()
    dataset |= {"labels": {"background": 0, "any": [1, 2], "core": 2, "ignore": 3}, "regions_class_order": [2, 1]}
    recipe = plan_of_v2(plans, dataset, "3d_small", None, file="x").recipe
    assert recipe.labels == {"background": 0, "any": 2, "core": 1}
    assert recipe.regions_class_order == (2, 1)


def test_a_list_of_one_value_is_that_value():
    plans, dataset = v2_plans()
    dataset |= {"labels": {"background": [0], "PVS": [1]}, "regions_class_order": [1]}
    recipe = plan_of_v2(plans, dataset, "3d_small", None, file="x").recipe
    assert (recipe.labels, recipe.regions_class_order) == ({"background": 0, "PVS": 1}, None)


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


def unfolding(kind, depth=200):
    """A value of `depth` objects that is 2^depth when it is written, compared or hashed."""
    value = kind([1])
    for _ in range(depth):
        value = kind([value, value])
    return value


BOMBS = {
    "lists": unfolding(list),
    "tuples": unfolding(tuple),
    "a list in itself": (loop := [1], loop.append(loop)) and loop,
    "deep": (deep := [], [deep := [deep] for _ in range(100_000)])[1][-1],
    "a long text": ["x" * 10_000_000] * 1000,
    "a huge number": 10**9,
    "a number of 2000 digits": 10**2000,
    "infinity": float("inf"),
    "nothing": None,
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("field", ["num_modalities", "num_classes", "normalization_schemes", "modalities", "name"]
                         + ["plans_per_stage", "patch_size", "transpose_forward", "init"])  # fmt: skip
def test_v1_plans_that_unfold_are_refused_at_once(v1, field, bomb):
    value = BOMBS[bomb]
    if field in ("name", "init"):
        v1[field] = (0, 0, 0, 0, 0, value) if field == "init" else value
    elif field == "patch_size":
        v1["plans"]["plans_per_stage"][0][field] = value
    else:
        v1["plans"][field] = {0: value} if field in ("normalization_schemes", "modalities") else value
    with contextlib.suppress(InputError):  # a short value may be a name
        recipe = plan_of_v1(v1, file="x.pkl").recipe
        assert len(repr(recipe)) < 10_000


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("field", ["configuration", "inherits_from", "patch_size", "normalization_schemes", "labels"]
                         + ["regions_class_order", "image_reader_writer", "plans_name", "mirror"])  # fmt: skip
def test_v2_plans_that_unfold_are_refused_at_once(field, bomb):
    plans, dataset = v2_plans()
    value = BOMBS[bomb]
    configuration = value if field == "configuration" else "3d_small"
    if field in ("inherits_from", "patch_size", "normalization_schemes"):
        plans["configurations"]["3d_small"][field] = value
    elif field in ("labels", "regions_class_order"):
        dataset |= {"labels": {"background": 0, "a": [1, 2], "b": 2}} | {field: value}
    else:
        plans[field] = value
    with contextlib.suppress(InputError):
        mirror = value if field == "mirror" else None
        plan = plan_of_v2(plans, dataset, configuration, mirror, file="x.json")
        assert len(repr(plan)) < 10_000


@pytest.mark.parametrize("bomb", ["lists", "tuples", "a list in itself", "a huge number"])
def test_info_of_weights_beside_a_bomb_is_one_error(tmp_path, v1, bomb):
    shutil.copy(DATA / "model_final_checkpoint.model", tmp_path)
    v1["plans"]["num_classes"] = BOMBS[bomb]
    data = pickle.dumps(v1)
    assert len(data) < 10_000
    (tmp_path / "model_final_checkpoint.model.pkl").write_bytes(data)
    with pytest.raises(InputError, match=r"model\.pkl") as caught:
        read_sources(tmp_path)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("lowres", [False, True])
def test_plans_one_folder_up_are_read_for_weights_without_their_own(tmp_path, v1, lowres):
    folder = tmp_path / ("3d_lowres" if lowres else "3d_fullres") / "Task019" / "Trainer__plans"
    fold = folder / "fold_0"
    fold.mkdir(parents=True)
    shutil.copy(DATA / "model_final_checkpoint.model", fold)
    plans = v1["plans"]
    plans["plans_per_stage"][1] = plans["plans_per_stage"][0] | {"patch_size": np.array([96, 160, 160])}
    (folder / "plans.pkl").write_bytes(pickle.dumps(plans))
    for path in (folder, fold, fold / "model_final_checkpoint.model"):
        (source,) = read_sources(path).values()
        assert source.recipe.patch_size == ((128, 128, 128) if lowres else (96, 160, 160))
        assert source.provenance["nnunet"]["trainer"] == "Trainer__plans"
        assert "plans.pkl one folder up" in " ".join(source.notes)
    (folder / "plans.pkl").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match="git lfs pull"):
        read_sources(fold)


def test_without_plans_the_note_names_all_that_is_assumed():
    notes = " ".join(read_sources(DATA / "lightning.ckpt")[""].notes)
    for word in ("patch 128 x 128 x 128", "voxel size", "orientation", "z-score", "mirrors of axes 0 1 2", "labels"):
        assert word in notes
