"""`mednext-jax convert` and `info`: every target, whole folders, and what is printed."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

from mednext_jax.convert.convert import convert, info, info_json
from mednext_jax.convert.sources import read_sources
from mednext_jax.convert.torch_reader.pickle_reader import read_pickle
from mednext_jax.errors import InputError
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.preprocess.normalise import SCHEMES, Scheme
from mednext_jax.weights import packaged
from mednext_jax.weights.directory import load_model, load_models, save_model
from mednext_jax.weights.names import expected_shapes, from_torch_names, to_torch_names
from mednext_jax.weights.recipe import Recipe
from tests.convert.torch_archive import DATA

V1 = DATA / "model_final_checkpoint.model"


def same_weights(a, b) -> bool:
    x, y = to_torch_names(a.config, a.params), to_torch_names(b.config, b.params)
    return list(x) == list(y) and all(x[key].tobytes() == y[key].tobytes() for key in x)


def v1_folder(path, folds: int):
    for fold in range(folds):
        (path / f"fold_{fold}").mkdir(parents=True)
        for name in (V1.name, V1.name + ".pkl"):
            shutil.copy(DATA / name, path / f"fold_{fold}")
    (path / "plans.pkl").write_bytes(b"not needed")
    return path


@pytest.mark.core
def test_a_released_model_becomes_a_model_directory(tmp_path, capsys):
    convert(V1, tmp_path / "model")
    model = load_model(tmp_path / "model")
    assert model.recipe.average == "softmax"
    assert model.provenance["source"] == V1.name
    assert model.provenance["converted_on"].startswith("20")
    printed = capsys.readouterr().out
    for words in ("nnU-Net v1 checkpoint", "6,696", "128 x 128 x 128", "0.8 x 0.8 x 0.8 mm", "softmax", "written"):
        assert words in printed


@pytest.mark.core
def test_info_says_what_a_file_and_a_model_are(tmp_path):
    convert(DATA / "checkpoint_final.pth", tmp_path / "model")
    for path in (DATA / "checkpoint_final.pth", tmp_path / "model"):
        text = info(path)
        for words in (
            "1 channels",
            "background, PVS",
            "64 x 64 x 64",
            "0.8 x 0.8 x 1 mm (x, y, z)",
            "ct",
            "source_sha256",
        ):
            assert words in text, (path, words)


@pytest.mark.core
def test_five_folds_become_an_ensemble_in_one_call(tmp_path):
    convert(v1_folder(tmp_path / "in", 5), tmp_path / "out")
    models = load_models(tmp_path / "out")
    assert [model.path.name for model in models] == [f"fold_{i}" for i in range(5)]
    assert info(tmp_path / "out").count("parameters") == 5
    # a fold on its own, given as a folder
    convert(tmp_path / "in/fold_3", tmp_path / "one")
    assert same_weights(load_model(tmp_path / "one"), models[3])


@pytest.mark.core
def test_upkern_on_the_way(tmp_path):
    convert(V1, tmp_path / "k5", upkern=5)
    model = load_model(tmp_path / "k5")
    assert model.config.encoder_kernel_size == 5
    assert model.params["stem"]["kernel"] == load_stem()
    assert model.provenance["upkern"] == 5


def load_stem():
    return read_sources(V1)[""].params["stem"]["kernel"]


@pytest.mark.core
@pytest.mark.parametrize("to", ["mednext-jax", "nnunet-v1"])
def test_an_existing_target_is_refused_first(tmp_path, to):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/x").touch()
    with pytest.raises(InputError, match="exists"):
        convert(tmp_path / "no such source", tmp_path / "out", to=to)


@pytest.mark.core
def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no weights"):
        convert(tmp_path, tmp_path / "out")


@pytest.mark.core
def test_a_final_checkpoint_that_is_not_fetched_is_not_passed_over_for_the_best(tmp_path):
    shutil.copy(V1, tmp_path / "model_best.model")
    (tmp_path / "model_final_checkpoint.model").symlink_to("../.git/annex/objects/aa/bb/x.model")
    with pytest.raises(InputError, match="datalad get"):
        read_sources(tmp_path)


@pytest.mark.core
def test_weights_under_another_name_in_a_folder_are_named(tmp_path):
    shutil.copy(V1, tmp_path / "best.pt")
    with pytest.raises(InputError, match=r"name the file itself, such as .*best\.pt"):
        read_sources(tmp_path)


@pytest.mark.core
def test_a_wrong_target_is_refused(tmp_path):
    with pytest.raises(InputError, match="unknown target"):
        convert(V1, tmp_path / "out", to="onnx")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_to_pytorch_and_back(tmp_path):
    torch = pytest.importorskip("torch")
    convert(V1, tmp_path / "model")
    convert(tmp_path / "model", tmp_path / "mic.pt", to="mic")
    convert(tmp_path / "mic.pt", tmp_path / "monai.pt", to="monai")
    convert(tmp_path / "monai.pt", tmp_path / "again")
    assert same_weights(load_model(tmp_path / "model"), load_model(tmp_path / "again"))
    theirs = torch.load(V1, weights_only=False)["state_dict"]
    ours = torch.load(tmp_path / "mic.pt", weights_only=True)
    assert list(ours) == list(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_five_folds_to_pytorch(tmp_path):
    pytest.importorskip("torch")
    convert(v1_folder(tmp_path / "in", 2), tmp_path / "out", to="mic")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["fold_0.pt", "fold_1.pt"]


def published(path, **recipe):
    """A model directory of a published size, which alone nnU-Net v1 has trainers for."""
    config = MedNeXtConfig.variant("S", num_classes=3)
    rng = np.random.default_rng(0)
    state = {key: rng.standard_normal(shape, np.float32) for key, shape in expected_shapes(config).items()}
    labels = {"background": 0, "WM": 1, "BG": 2}
    recipe = Recipe(labels=labels, spacing=(0.8, 0.7, 0.9), patch_size=(96, 112, 128), **recipe)
    save_model(path, config, from_torch_names(config, state), recipe)
    return path


def test_nnunet_v1_folder_and_back(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    convert(published(tmp_path / "model", average="softmax"), tmp_path / "v1", to="nnunet-v1")
    fold = tmp_path / "v1/fold_0"
    checkpoint = torch.load(fold / "model_final_checkpoint.model", weights_only=True)  # as the fork's torch.load does
    assert "out_4.conv_out.weight" in checkpoint["state_dict"]  # its trainer builds five heads
    assert "written as zeros" in capsys.readouterr().out
    info = pickle.loads((fold / "model_final_checkpoint.model.pkl").read_bytes())
    assert info["name"] == "nnUNetTrainerV2_MedNeXt_S_kernel3"
    assert list(info["plans"]["plans_per_stage"][0]["patch_size"]) == [96, 112, 128]
    assert pickle.loads((tmp_path / "v1/plans.pkl").read_bytes())["num_modalities"] == 1
    before, after = load_model(tmp_path / "model"), read_sources(tmp_path / "v1")["fold_0"]
    assert after.recipe.spacing == before.recipe.spacing
    assert after.recipe.patch_size == before.recipe.patch_size
    ours, theirs = (to_torch_names(x.config, x.params) for x in (before, after))
    assert all(ours[key].tobytes() == theirs[key].tobytes() for key in ours)


def test_nnunet_v2_folder_and_back(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    convert(v1_folder(tmp_path / "in", 2), tmp_path / "v2", to="nnunet-v2")
    printed = capsys.readouterr().out
    assert "nnUNet_extTrainer" in printed and "out_1 .. out_4 are left out" in printed
    checkpoint = torch.load(tmp_path / "v2/fold_1/checkpoint_final.pth", weights_only=True)
    assert checkpoint["trainer_name"] == "nnUNetTrainerMedNeXt"
    assert "out_1.conv_out.weight" not in checkpoint["network_weights"]
    plans = json.loads((tmp_path / "v2/plans.json").read_text())
    assert plans["configurations"]["3d_fullres"]["patch_size"] == [128, 128, 128]
    compile((tmp_path / "v2/trainer/nnUNetTrainerMedNeXt.py").read_text(), "trainer", "exec")
    before, after = read_sources(tmp_path / "in")["fold_1"], read_sources(tmp_path / "v2")["fold_1"]
    assert after.kind == "nnU-Net v2 checkpoint"
    assert (after.recipe.spacing, after.recipe.patch_size) == (before.recipe.spacing, before.recipe.patch_size)
    ours, theirs = (to_torch_names(x.config, x.params) for x in (before, after))
    assert all(ours[key].tobytes() == theirs[key].tobytes() for key in theirs)


def test_what_nnunet_cannot_express_is_refused(tmp_path):
    pytest.importorskip("torch")
    with pytest.raises(InputError, match="no trainer"):
        convert(V1, tmp_path / "v1", to="nnunet-v1")  # one channel: no published size
    convert(DATA / "lightning.ckpt", tmp_path / "model")  # no plans: no spacing
    with pytest.raises(InputError, match="target spacing"):
        convert(tmp_path / "model", tmp_path / "v2", to="nnunet-v2")
    assert not (tmp_path / "v1").exists() and not (tmp_path / "v2").exists()


def test_a_scheme_that_nnunet_does_not_have_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setitem(SCHEMES, "halves", Scheme(SCHEMES["none"].find))
    model = published(tmp_path / "model", normalisation=("halves",))
    for version in ("v1", "v2"):
        with pytest.raises(InputError, match="does not normalise as halves"):
            convert(model, tmp_path / version, to=f"nnunet-{version}")
        assert not (tmp_path / version).exists()


def test_a_model_that_turns_scans_to_ras_comes_back_from_nnunet_v2_as_one(tmp_path):
    pytest.importorskip("torch")
    for orientation, reader in (("RAS", "NibabelIOWithReorient"), (None, "SimpleITKIO")):
        folder = tmp_path / str(orientation)
        folder.mkdir()
        convert(published(folder / "model", orientation=orientation), folder / "v2", to="nnunet-v2")
        assert json.loads((folder / "v2/plans.json").read_text())["image_reader_writer"] == reader
        assert read_sources(folder / "v2")["fold_0"].recipe.orientation == orientation


def test_what_nnunet_does_otherwise_is_said(tmp_path, capsys):
    pytest.importorskip("torch")
    recipe = {"threshold": 0.3, "crop_to_nonzero": False, "mirror_axes": (0,), "optional_steps": ("n4",)}
    convert(published(tmp_path / "model", **recipe), tmp_path / "v1", to="nnunet-v1")
    printed = capsys.readouterr().out
    for words in ("threshold 0.3", "crops", "mirrors all three axes", "does not repeat", "RAS order"):
        assert words in printed


@pytest.mark.core
def test_a_workdir_stands_for_its_model(tmp_path):
    convert(V1, tmp_path / "run/model")
    convert(v1_folder(tmp_path / "in", 2), tmp_path / "cv/model")
    assert load_model(tmp_path / "run").path == tmp_path / "run/model"
    assert [m.path.name for m in load_models(tmp_path / "cv")] == ["fold_0", "fold_1"]
    assert info(tmp_path / "run") == info(tmp_path / "run/model")
    assert list(read_sources(tmp_path / "cv")) == ["fold_0", "fold_1"]


@pytest.mark.core
def test_info_tells_what_was_assumed_when_the_model_was_converted(tmp_path):
    convert(DATA / "lightning.ckpt", tmp_path / "model")
    assert "axes as the scan is stored (orientation)" in info(tmp_path / "model")


@pytest.mark.core
def test_info_leaves_long_facts_to_json():
    text, (network,) = info(packaged.FOLDER), json.loads(info_json(packaged.FOLDER))["networks"]
    facts = network["provenance"]
    assert f"config: {len(facts['config'])} entries; info --json has them" in text
    assert f"training_range: {facts['training_range']}" in text
    assert max(map(len, text.splitlines())) < 250


@pytest.mark.core
def test_info_escapes_what_a_stranger_wrote(tmp_path):
    convert(V1, tmp_path / "model")
    file = tmp_path / "model/model.json"
    description = json.loads(file.read_text())
    description["recipe"]["channel_names"] = ["\x1b]0;owned\x07\ud800"]
    description["provenance"] |= {"\x1b[2J": {"\ud800": "\x9b2J"}, "notes": ["\x1b[31mred", "\ud800", 3]}
    file.write_text(json.dumps(description))
    text = info(tmp_path / "model")
    text.encode()  # no lone surrogate
    assert "\x1b" not in text and "\x9b" not in text and "\\x1b[31mred" in text


@pytest.mark.parametrize("to", ["mednext-jax", "mic", "nnunet-v2"])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, to):
    if to != "mednext-jax":
        pytest.importorskip("torch")
    program = (
        "import resource, sys; from mednext_jax.main import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); sys.exit(main(sys.argv[1:]))"
    )
    source = DATA / "checkpoint_final.pth"
    done = subprocess.run(
        [sys.executable, "-B", "-c", program, "convert", source, tmp_path / "out", "--to", to],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("mednext-jax convert: ") and len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_written_plans_are_read_by_our_own_reader(tmp_path):
    pytest.importorskip("torch")
    convert(published(tmp_path / "model"), tmp_path / "v1", to="nnunet-v1")
    data = (tmp_path / "v1/plans.pkl").read_bytes()
    assert read_pickle(memoryview(data), file="plans.pkl")["num_classes"] == 2
