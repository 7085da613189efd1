"""The model directory: round trip, and every way in which a stranger's may be wrong."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
import struct

import numpy as np
import pytest
import safetensors.numpy

from mednext_jax.convert.sources import read_sources
from mednext_jax.errors import InputError
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.weights.directory import (
    load_model,
    load_models,
    notice_of,
    read_recipes,
    save_model,
    set_calibration,
    set_threshold,
    sha256,
)
from mednext_jax.weights.names import DUMMY, expected_shapes, from_torch_names, to_torch_names
from mednext_jax.weights.recipe import Recipe
from mednext_jax.weights.safetensors_file import read_tensors
from tests.convert.torch_archive import DATA

pytestmark = pytest.mark.core

CONFIG = MedNeXtConfig.variant("S", base_channels=2, in_channels=2, num_classes=3, deep_supervision=True)
RECIPE = Recipe(
    channel_names=("T1w", "CT"),
    labels={"background": 0, "WM": 1, "BG": 2},
    patch_size=(96, 160, 160),
    spacing=(0.8, 0.8, 1.0),
    orientation=None,
    normalisation=("zscore", "ct"),
    intensity_properties=({"mean": 1.0, "std": 2.0, "percentile_00_5": 0.0, "percentile_99_5": 9.0},) * 2,
    mirror_axes=(0, 2),
    average="softmax",
    threshold=0.3,
)


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    state = {key: rng.standard_normal(shape, np.float32) for key, shape in expected_shapes(CONFIG).items()}
    return from_torch_names(CONFIG, state)


@pytest.fixture
def model(tmp_path, params):
    return save_model(tmp_path / "model", CONFIG, params, RECIPE, {"source": "a test"})


def edit(model, change):
    file = model / "model.json"
    description = json.loads(file.read_text())
    change(description)
    file.write_text(json.dumps(description))


def test_round_trip(model, params):
    loaded = load_model(model)
    assert (loaded.config, loaded.recipe, loaded.path) == (CONFIG, RECIPE, model)
    assert loaded.provenance == {"source": "a test"}
    before, after = to_torch_names(CONFIG, params), to_torch_names(loaded.config, loaded.params)
    assert all(before[key].tobytes() == after[key].tobytes() for key in before)


def test_float16_weights_are_loaded_as_float32(tmp_path, params):
    halved = save_model(tmp_path / "half", CONFIG, params, RECIPE, half=True)
    tensors = read_tensors(halved / "model.safetensors")
    assert {x.dtype.name for x in tensors.values()} == {"float16"}
    before, after = (to_torch_names(CONFIG, p) for p in (params, load_model(halved).params))
    assert all(x.dtype == np.float32 and np.array_equal(x, before[k].astype(np.float16)) for k, x in after.items())
    (one,) = read_sources(halved).values()  # `convert` and `info` read them, too
    assert one.params["stem"]["bias"].dtype == np.float32


def test_a_weight_beyond_float16_is_refused(tmp_path, params):
    large = {**params, "stem": {**params["stem"], "bias": params["stem"]["bias"] + np.float32(1e5)}}
    with pytest.raises(InputError, match="(?s)too large for float16.*stem.bias"):
        save_model(tmp_path / "half", CONFIG, large, RECIPE, half=True)
    assert not (tmp_path / "half").exists()


def test_others_may_read_the_weights_as_they_may_the_description(model):
    modes = {(model / name).stat().st_mode for name in ("model.json", "model.safetensors")}
    assert len(modes) == 1


def test_the_weights_load_strictly_into_a_torch_module_with_the_same_keys(model):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    tensors = load_file(model / "model.safetensors")
    assert {key: tuple(x.shape) for key, x in tensors.items()} == expected_shapes(CONFIG)
    assert tensors[DUMMY].dtype == torch.float32 and tensors[DUMMY].item() == 1.0


def test_an_existing_output_is_not_overwritten(model, params):
    with pytest.raises(InputError, match="exists"):
        save_model(model, CONFIG, params, RECIPE)


def test_an_ensemble_is_a_folder_of_models(tmp_path, params):
    for fold in (1, 0):
        save_model(tmp_path / f"fold_{fold}", CONFIG, params, RECIPE)
    assert [m.path.name for m in load_models(tmp_path)] == ["fold_0", "fold_1"]
    assert len(load_models(tmp_path / "fold_0")) == 1
    with pytest.raises(InputError, match="ensemble"):
        load_model(tmp_path)


def test_an_ensemble_with_a_fold_that_is_not_whole_is_refused(tmp_path, params):
    """A copy that was interrupted would be another model without a word."""
    for name in ("fold_0", "fold_1", "fold_2"):
        save_model(tmp_path / name, CONFIG, params, RECIPE)
    (tmp_path / "fold_1" / "model.json").unlink()
    for read in (load_models, read_sources):
        with pytest.raises(InputError, match="(?s)no weights.*fold_1"):
            read(tmp_path)
    shutil.rmtree(tmp_path / "fold_1")
    assert len(load_models(tmp_path)) == len(read_sources(tmp_path)) == 2


def test_a_workdir_means_its_model(tmp_path, params):
    save_model(tmp_path / "run" / "model", CONFIG, params, RECIPE)
    assert load_model(tmp_path / "run").path == tmp_path / "run" / "model"
    assert [model.path for model in load_models(tmp_path / "run")] == [tmp_path / "run" / "model"]


def test_recipe_must_fit_the_network(tmp_path, params):
    with pytest.raises(InputError, match="labels"):
        save_model(tmp_path / "m", CONFIG, params, dataclasses.replace(RECIPE, labels={"background": 0, "PVS": 1}))
    assert not (tmp_path / "m").exists()


def test_a_model_of_version_0_1_0_spells_a_field_otherwise(model):
    edit(model, lambda d: d["recipe"].update(cleaning=["n4", "brain"]) or d["recipe"].pop("optional_steps"))
    assert load_model(model).recipe == dataclasses.replace(RECIPE, optional_steps=("n4", "brain"))


def test_a_model_of_version_0_1_0_has_one_threshold_and_no_temperature(model):
    edit(model, lambda d: [d["recipe"].pop(name) for name in ("thresholds", "temperature")])
    assert load_model(model).recipe == RECIPE


TABLE = ({"contrast": "T1w", "largest_voxel": 1.2, "threshold": 0.4},)


def calibrated(path):
    """A model of background and PVS with a table of thresholds; returns its folder."""
    config = dataclasses.replace(CONFIG, in_channels=1, num_classes=2, deep_supervision=False)
    state = {key: np.ones(shape, np.float32) for key, shape in expected_shapes(config).items()}
    recipe = Recipe(thresholds=TABLE, temperature=1.5)
    return save_model(path, config, from_torch_names(config, state), recipe, {"notice": " for\n tests "})


def test_a_table_of_thresholds_gives_way_to_one_threshold_and_is_kept(tmp_path):
    model = calibrated(tmp_path / "model")
    assert load_model(model).recipe.thresholds == TABLE and load_model(model).recipe.temperature == 1.5
    set_threshold(model, 0.25, {"criterion": "dice"})
    after = load_model(model)
    assert (after.recipe.threshold, after.recipe.thresholds, after.recipe.temperature) == (0.25, (), 1.5)
    assert after.provenance["threshold"] == {
        "before": 0.5, "thresholds_before": [dict(TABLE[0])], "criterion": "dice"
    }  # fmt: skip
    assert notice_of(after.provenance) == "for tests"


def test_a_calibration_sets_temperature_and_thresholds_alone(tmp_path):
    model = calibrated(tmp_path / "model")
    before = load_model(model)
    new = dataclasses.replace(before.recipe, temperature=2.0, thresholds=(), threshold=0.3, mirror_axes=())
    assert set_calibration(model, new, {"scans": 3}) == [model / "model.json"]
    after = load_model(model)
    assert after.recipe == dataclasses.replace(new, mirror_axes=before.recipe.mirror_axes)
    assert after.provenance["calibration"] == {"scans": 3}


@pytest.mark.parametrize(
    "provenance", [{}, {"notice": 3}, {"notice": " "}, {"notice": None}, {"notice": ["a"]}], ids=str
)
def test_a_notice_that_is_none_is_not_told(provenance):
    assert notice_of(provenance) is None and len(notice_of({"notice": "x" * 9999})) == 500


@pytest.mark.parametrize(
    "table",
    [3, "T1w", [3], [{}], [{**TABLE[0], "contrast": "T3w"}], [{**TABLE[0], "threshold": 2}], [*TABLE, *TABLE]],
    ids=str,
)
def test_a_broken_table_of_thresholds_is_refused_by_name(tmp_path, table):
    model = calibrated(tmp_path / "model")
    edit(model, lambda d: d["recipe"].update(thresholds=table))
    with pytest.raises(InputError, match="(?s)thresholds is not valid.*model.json.*largest_voxel"):
        load_model(model)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["recipe"].update(thresholds=[dict(TABLE[0])]), "thresholds"),  # three classes: the argmax
        (lambda d: d["recipe"].update(temperature=0), "temperature"),
        (lambda d: d["recipe"].update(temperature="1"), "temperature"),
        (lambda d: d.pop("recipe"), "'recipe' is missing"),
        (lambda d: d.pop("weights"), "'weights' is missing"),
        (lambda d: d.update(extra=1), "'extra' is unknown"),
        (lambda d: d.update(format="other"), "not a model description"),
        (lambda d: d.update(format_version=2), "another format version"),
        (lambda d: d.update(recipe=[]), "no JSON object"),
        (lambda d: d["architecture"].update(kernel=3), "unknown MedNeXtConfig field 'kernel'"),
        (lambda d: d["architecture"].update(base_channels=10**12), "base_channels"),
        (lambda d: d["architecture"].update(base_channels=2048), "another architecture"),
        (lambda d: d["recipe"].update(treshold=0.5), "did you mean 'threshold'"),
        (lambda d: d["recipe"].update(patch_size=[100, 128, 128]), "patch_size"),
        (lambda d: d["recipe"].update(patch_size="abc"), "patch_size"),
        (lambda d: d["recipe"].update(spacing=[0.8, 0.8]), "spacing"),
        (lambda d: d["recipe"].update(labels={"background": 0, "a": 2, "b": 3}), "labels"),
        (lambda d: d["recipe"].update(labels={str(i): i for i in range(257)}), "at most 256"),
        (lambda d: d["recipe"].update(brain_extracted=1), "brain_extracted"),
        (lambda d: d["recipe"].update(regions_class_order=[[1], 2]), "regions_class_order"),
        (lambda d: d["recipe"].update(regions_class_order=[1, 2, 2]), "regions_class_order"),
        (lambda d: d["recipe"].update(mirror_axes=[[0]]), "mirror_axes"),
        (lambda d: d["recipe"].update(normalisation=[["zscore"], {}]), "normalisation"),
        (lambda d: d["recipe"].update(labels={"background": 0, "a": [1], "b": 2}), "labels"),
        (lambda d: d["recipe"].update(normalisation=3), "normalisation"),
        (lambda d: d["recipe"].update(intensity_properties=None), "intensity_properties"),
        (lambda d: d["architecture"].update(in_channels=1), "channel_names"),
        (lambda d: d["weights"].update(sha256="0" * 64), "sha256"),
    ],
)
def test_a_wrong_description_is_refused_with_the_part_named(model, change, words):
    edit(model, change)
    with pytest.raises(InputError, match=words) as caught:
        load_model(model)
    assert "model.json" in str(caught.value) or "model.safetensors" in str(caught.value)


WRONG = [None, True, -1, 2**62, 1e300, "", "x" * 5000, "\ud800\x1b[2J", [], [1], [[1]], [[]] * 20, {}, {"a": {}}]
WRONG += [[None, None], ["a", 1], [1e300] * 3, {"a": [1], "b": "c"}, [{"mean": [1]}] * 2]


def fields():
    description = {"architecture": CONFIG.to_dict(), "recipe": RECIPE.to_dict()}
    description["weights"] = {"file": 0, "bytes": 0, "sha256": 0}
    description |= dict.fromkeys(("format", "format_version", "provenance"))
    found = [(part,) for part in description]
    return found + [(part, name) for part, inner in description.items() if inner for name in inner]


@pytest.mark.parametrize("field", fields(), ids="/".join)
def test_a_wrong_value_in_any_field_is_an_input_error_or_harmless(model, field):
    text = (model / "model.json").read_text()
    for value in WRONG:
        description = json.loads(text)
        inner = description[field[0]] if len(field) == 2 else description
        inner[field[-1]] = value
        (model / "model.json").write_text(json.dumps(description))
        try:
            loaded = load_model(model)
        except InputError as error:
            str(error).encode()  # shows on any terminal
            assert "\x1b" not in str(error)
        else:
            loaded.recipe.check_fits(loaded.config)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38])
def test_senseless_weights_are_neither_written_nor_read(tmp_path, params, model, value):
    damaged = copy.deepcopy(params)
    damaged["up_1"]["conv2"]["bias"][0] = value
    with pytest.raises(InputError, match=r"up_1\.conv2\.bias"):
        save_model(tmp_path / "damaged", CONFIG, damaged, RECIPE)
    assert not (tmp_path / "damaged").exists()
    file = model / "model.safetensors"
    state = {key: x.copy() for key, x in read_tensors(file).items()}
    state["up_1.conv2.bias"][0] = value
    safetensors.numpy.save_file(state, file)
    edit(model, lambda d: d["weights"].update(sha256=sha256(file)))
    with pytest.raises(InputError, match=r"(?s)model\.safetensors.*up_1\.conv2\.bias"):
        load_model(model)


def test_a_pytorch_file_is_no_packed_model(tmp_path):
    for name in ("model_final_checkpoint.model", "legacy.pth", "checkpoint_final.pth"):
        with pytest.raises(InputError, match="(?s)not a model directory.*mednext-jax convert"):
            load_model(DATA / name)
    (tmp_path / "model").symlink_to(".git/annex/objects/aa/model")
    with pytest.raises(InputError, match="datalad get"):
        load_model(tmp_path / "model")


def test_what_lies_near_a_model_is_told_where_the_model_is(tmp_path, model):
    for name in ("model.safetensors", "model.json"):
        assert load_model(model / name).recipe == RECIPE
    shutil.copytree(model, tmp_path / "folds" / "fold_0" / "model")
    with pytest.raises(InputError, match=f"-m {tmp_path}/folds/fold_0"):
        load_models(tmp_path / "folds")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(InputError, match="has not finished"):
        load_models(tmp_path / "run")


def test_a_packed_model_wants_unpacking(tmp_path, model):
    for form in ("zip", "gztar", "tar"):
        packed = shutil.make_archive(str(tmp_path / "packed"), form, model)
        for load in (load_model, load_models):
            with pytest.raises(InputError, match=r"(?s)packed.*unpack it"):
                load(packed)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_content_that_is_elsewhere_is_said(model, name):
    (model / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(InputError, match="git lfs pull"):
        load_model(model)
    (model / name).unlink()
    (model / name).symlink_to(".git/annex/objects/aa/x")
    with pytest.raises(InputError, match="datalad get"):
        load_model(model)


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"a": NaN}', '{"a": 1, "a": 2}', "[" * 100_000, " " * (2**20 + 1), "\xff"],
    ids=["empty", "cut", "nan", "twice", "deep", "large", "not UTF-8"],
)
def test_a_description_that_is_no_json_is_refused(model, text):
    (model / "model.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"model\.json"):
        load_model(model)


def test_missing_parts(tmp_path, model):
    with pytest.raises(InputError, match="does not exist"):
        load_model(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="not a model directory"):
        load_model(tmp_path / "empty")
    (model / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"(?s)missing.*model\.safetensors"):
        load_model(model)


def test_weights_cut_anywhere_are_refused(model):
    file = model / "model.safetensors"
    whole = file.read_bytes()
    for length in range(0, len(whole), len(whole) // 50):
        file.write_bytes(whole[:length])
        with pytest.raises(InputError):
            load_model(model)


def test_a_flipped_bit_is_noticed(model):
    file = model / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match="sha256"):
        load_model(model)


def write_header(path, header, data=b""):
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize(
    "header",
    [  # all in a file with 8 bytes of data
        {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}},
        {"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1] * 100, "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F31", "shape": [2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2]}},
        {name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in "ab"},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 9]}},
        {"a": 3},
        [1],
        b'{"a": ' + b"[" * 50_000,
    ],
)  # fmt: skip
def test_safetensors_headers_that_lie_are_refused(tmp_path, header):
    write_header(tmp_path / "x.safetensors", header, bytes(8))
    with pytest.raises(InputError):
        read_tensors(tmp_path / "x.safetensors")


def test_safetensors_of_every_type_are_read(tmp_path):
    arrays = {
        name: np.arange(6).reshape(2, 3).astype(name)
        for name in ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
    }
    arrays["scalar"], arrays["empty"] = np.array(3, np.float32), np.zeros((0, 4), np.float32)
    safetensors.numpy.save_file(arrays, tmp_path / "x.safetensors")
    found = read_tensors(tmp_path / "x.safetensors")
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    header = {"b": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}
    write_header(tmp_path / "b.safetensors", header, np.array([0x3F80, 0xC000], "<u2").tobytes())
    np.testing.assert_array_equal(read_tensors(tmp_path / "b.safetensors")["b"].astype(np.float32), [1, -2])


def test_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


BINARY = dataclasses.replace(RECIPE, labels={"background": 0, "PVS": 1})
BINARY_CONFIG = dataclasses.replace(CONFIG, num_classes=2)


@pytest.fixture
def binary(tmp_path):
    rng = np.random.default_rng(1)
    shapes = expected_shapes(BINARY_CONFIG)
    params = from_torch_names(BINARY_CONFIG, {key: rng.standard_normal(s, np.float32) for key, s in shapes.items()})
    return save_model(tmp_path / "ensemble" / "fold_0", BINARY_CONFIG, params, BINARY, {"source": "a test"})


def test_another_threshold_is_written_and_the_weights_stay(binary):
    weights = (binary / "model.safetensors").read_bytes()
    assert set_threshold(binary, 0.35, {"criterion": "dice", "scans": 7}) == [binary / "model.json"]
    loaded = load_model(binary)
    assert loaded.recipe == dataclasses.replace(BINARY, threshold=0.35)
    assert loaded.provenance == {
        "source": "a test",
        "threshold": {"before": 0.3, "criterion": "dice", "scans": 7},
    }
    assert (binary / "model.safetensors").read_bytes() == weights
    assert sorted(path.name for path in binary.iterdir()) == ["model.json", "model.safetensors"]


def test_all_models_of_an_ensemble_get_the_threshold(binary):
    shutil.copytree(binary, binary.parent / "fold_1")
    assert list(read_recipes(binary.parent).values()) == [BINARY, BINARY]
    assert len(set_threshold(binary.parent, 0.6, {})) == 2
    assert [model.recipe.threshold for model in load_models(binary.parent)] == [0.6, 0.6]


def test_a_threshold_that_a_model_cannot_take_leaves_it_as_it_was(model, binary, tmp_path):
    before = (binary / "model.json").read_bytes()
    for threshold in (0, 1, -0.2, float("nan")):
        with pytest.raises(InputError, match="threshold"):
            set_threshold(binary, threshold, {})
    with pytest.raises(InputError, match="most probable class"):
        set_threshold(model, 0.5, {})
    shutil.copytree(model, binary.parent / "fold_1")  # one of two models takes none: neither is written
    with pytest.raises(InputError, match="most probable class"):
        set_threshold(binary.parent, 0.5, {})
    assert (binary / "model.json").read_bytes() == before
    (tmp_path / "empty").mkdir()
    for absent in (tmp_path / "absent", tmp_path / "empty"):
        with pytest.raises(InputError, match="model"):
            read_recipes(absent)
