"""`-m` with what people have: files, nnU-Net's folders, MedNet-PVS's tree; converted once, kept by content."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

from mednext_jax import main as command_line
from mednext_jax.convert.convert import convert
from mednext_jax.errors import InputError
from mednext_jax.hub import open_model
from mednext_jax.hub.known import KNOWN, TREE
from mednext_jax.hub.open_model import open_models
from mednext_jax.weights.directory import load_model, load_models
from mednext_jax.weights.names import to_torch_names
from tests.convert.torch_archive import DATA

V1, V2 = DATA / "model_final_checkpoint.model", DATA / "checkpoint_final.pth"
T1W, T2W, UNET = KNOWN


def fold(path, changes=None):
    """A fold of nnU-Net v1 with the weights and the plans of the released form; `changes` of the plans."""
    path.mkdir(parents=True)
    shutil.copy(V1, path)
    info = pickle.loads((DATA / f"{V1.name}.pkl").read_bytes())
    info["plans"] |= changes or {}
    (path / f"{V1.name}.pkl").write_bytes(pickle.dumps(info, protocol=4))
    return path


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """MedNet-PVS_weights as published: two sets of MedNeXt, here with two folds each, whose plans name no contrast."""
    top = tmp_path_factory.mktemp("download")
    for task in (T1W, T2W):
        for number in range(2):
            fold(top / TREE / task.folder / f"fold_{number}", {"modalities": {0: "MRI"}})
            (top / TREE / task.folder / f"fold_{number}" / "debug.json").write_text("{}")
    for name in ("nnUNet_preprocessed", "nnUNet_raw_data_base"):
        (top / "MedNet-PVS_weights" / name).mkdir()
    return top


def same(a, b) -> bool:
    x, y = to_torch_names(a.config, a.params), to_torch_names(b.config, b.params)
    return list(x) == list(y) and all(x[key].tobytes() == y[key].tobytes() for key in x)


@pytest.mark.core
def test_a_checkpoint_is_what_convert_makes_of_it(tmp_path, cache):
    convert(V1, tmp_path / "model")
    (opened,) = open_models(V1)
    expected = load_model(tmp_path / "model")
    assert same(opened, expected) and opened.recipe == expected.recipe and opened.config == expected.config
    assert opened.path.parent == cache / "converted"


@pytest.mark.core
def test_a_model_directory_and_a_workdir_are_opened_where_they_are(tmp_path, cache):
    convert(V1, tmp_path / "run" / "model")
    for given in (tmp_path / "run", str(tmp_path / "run" / "model"), tmp_path / "run/model/model.json"):
        assert [model.path for model in open_models(given)] == [tmp_path / "run" / "model"]
    assert not cache.exists()


@pytest.mark.core
def test_the_second_time_nothing_is_converted(tmp_path, cache, monkeypatch, capsys):
    path = fold(tmp_path / "fold_0")
    open_models(path)
    assert "kept in" in capsys.readouterr().out
    monkeypatch.setattr(open_model, "read_source", None)  # it would fail
    moved = path.rename(tmp_path / "fold_3")
    assert len(open_models(moved)) == 1  # by content, wherever it lies
    assert capsys.readouterr().out == ""
    assert len(list((cache / "converted").iterdir())) == 1  # no lock file and no temporary folder stays


@pytest.mark.core
def test_other_plans_are_another_model(tmp_path):
    one = open_models(fold(tmp_path / "a"))[0]
    stage = pickle.loads((DATA / f"{V1.name}.pkl").read_bytes())["plans"]["plans_per_stage"]
    stage[0]["patch_size"] = np.array([64, 64, 64])
    other = open_models(fold(tmp_path / "b", {"plans_per_stage": stage}))[0]
    assert (one.recipe.patch_size, other.recipe.patch_size) == ((128,) * 3, (64,) * 3)
    assert one.path != other.path


@pytest.mark.core
def test_new_code_converts_again(tmp_path, monkeypatch):
    one = open_models(V1)[0].path
    monkeypatch.setattr(open_model, "_code", lambda: "newer")
    assert open_models(V1)[0].path != one


@pytest.mark.core
def test_a_damaged_entry_is_made_again(cache):
    (model,) = open_models(V1)
    weights = model.path / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-4] + b"\0\0\0\1")
    assert same(open_models(V1)[0], model) and weights.read_bytes() == content


PROCESS = """
import sys
from mednext_jax.hub.open_model import open_models
print(open_models(sys.argv[1])[0].path)
"""


@pytest.mark.core
def test_processes_at_once_make_one_entry(cache):
    processes = [
        subprocess.Popen([sys.executable, "-c", PROCESS, V1], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    said = [process.communicate(timeout=300)[0].splitlines() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert len({lines[-1] for lines in said}) == 1
    assert sum("kept in" in line for lines in said for line in lines) == 1  # converted by one of them
    assert len(list((cache / "converted").iterdir())) == 1


@pytest.mark.core
@pytest.mark.parametrize("task", [T1W, T2W])
def test_a_published_set_is_an_ensemble_of_its_folds_and_knows_its_contrast(tree, task):
    models = open_models(tree / TREE / task.folder)
    assert len(models) == 2
    assert {model.recipe.channel_names for model in models} == {(task.contrast,)}
    assert models[0].recipe.spacing == (0.8, 0.8, 0.8) and models[0].recipe.average == "softmax"
    assert len(open_models(tree / TREE / task.folder / "fold_1")) == 1


@pytest.mark.core
def test_a_tree_of_several_sets_names_them(tree):
    with pytest.raises(InputError, match="Several models are below") as caught:
        open_models(tree / "MedNet-PVS_weights")
    for words in (T1W.folder, T2W.folder, "T1w", "T2w", f"-m {tree / TREE / T1W.folder}"):
        assert words in str(caught.value)


@pytest.mark.core
@pytest.mark.parametrize("trainer", ["", "nnUNetTrainerV2_MedNeXt_L_kernel5__nnUNetPlansv2.1"])
def test_a_task_s_folder_stands_for_the_only_trainer_in_it(tmp_path, trainer):
    for number in range(2):
        fold(tmp_path / "results" / "Task101_PVS" / trainer / f"fold_{number}")
    (tmp_path / "results" / "Task101_PVS" / trainer / "plans.pkl").write_bytes(b"not needed")
    assert len(open_models(tmp_path / "results" / "Task101_PVS")) == 2
    assert open_models(tmp_path / "results")[0].recipe.channel_names == ("T2w",)  # of the plans


@pytest.mark.core
def test_a_folder_of_nnunet_v2(tmp_path):
    folder = tmp_path / "Dataset001_PVS" / "nnUNetTrainer__nnUNetPlans__3d_fullres" / "fold_all"
    folder.mkdir(parents=True)
    shutil.copy(V2, folder)
    (model,) = open_models(tmp_path / "Dataset001_PVS")
    assert model.recipe.average == "logits" and model.recipe.patch_size == (64, 64, 64)


@pytest.mark.core
def test_a_fold_that_is_missing_is_not_passed_over(tmp_path):
    fold(tmp_path / "task/fold_0")
    (tmp_path / "task/fold_1").mkdir()
    with pytest.raises(InputError, match="fold_1"):
        open_models(tmp_path / "task")


@pytest.mark.core
@pytest.mark.parametrize("name", ["model.json", "notes.txt"])
def test_what_is_no_model_is_said_as_before(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / name).write_text("{}")
    with pytest.raises(InputError, match="no(t a)? model d"):
        open_models(tmp_path / "folder")
    with pytest.raises(InputError, match="The model does not exist"):
        open_models(tmp_path / "nowhere")


@pytest.mark.core
def test_weights_without_plans_are_warned_of_each_time(caplog):
    for _ in range(2):
        open_models(DATA / "lightning.ckpt")
        assert "so these are assumed" in caplog.text
        caplog.clear()


@pytest.mark.core
def test_a_cache_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match="export XDG_CACHE_HOME"):
        open_models(V1)


@pytest.mark.core
def test_a_threshold_is_not_written_into_what_is_no_model_directory(tmp_path, capsys):
    for given in (V1, "hf://lab/pvs"):
        call = [
            "evaluate",
            "-p",
            tmp_path,
            "-r",
            tmp_path,
            "-o",
            tmp_path / "out",
            "--sweep",
            "--write-threshold",
            given,
        ]
        assert command_line.main([str(word) for word in call]) == 2
        assert "mednext-jax convert SOURCE TARGET" in capsys.readouterr().err


def test_a_hostile_file_is_refused_and_nothing_is_run_or_kept(tmp_path, cache):
    torch = pytest.importorskip("torch")

    class Payload:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'marker'}",)

    torch.save({"state_dict": Payload()}, tmp_path / "weights.pt")
    torch.save({"state_dict": {"stem.weight": torch.zeros(1, 1, 1, 1, 1), "x": Payload()}}, tmp_path / "mixed.pt")
    plans = fold(tmp_path / "fold_0")
    (plans / f"{V1.name}.pkl").write_bytes(pickle.dumps({"plans": Payload()}))
    for given in (tmp_path / "weights.pt", tmp_path / "mixed.pt", plans):
        with pytest.raises(InputError):
            open_models(given)
    assert not (tmp_path / "marker").exists()
    assert not list((cache / "converted").iterdir())
    pickle.loads((plans / f"{V1.name}.pkl").read_bytes())
    assert (tmp_path / "marker").exists()  # it would have been run


def test_nnunet_s_unet_of_the_published_sets_is_refused_with_the_reason(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    path = fold(tmp_path / TREE / UNET.folder / "fold_0")
    state = {f"conv_blocks_context.0.blocks.{i}.conv.weight": torch.zeros(8, 1, 3, 3, 3) for i in range(2)}
    torch.save({"state_dict": state, "plot_stuff": ()}, path / V1.name)
    assert command_line.main(["info", str(path.parent)]) == 2
    with pytest.raises(InputError, match="not the weights of a MedNeXt") as caught:
        open_models(path.parent)
    assert "Generic_UNet" in str(caught.value) and T2W.folder in str(caught.value)


def test_predict_and_info_take_a_checkpoint_of_torch(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    import nibabel as nib

    rng = np.random.default_rng(0)
    (model,) = open_models(V2)
    state = {k: torch.from_numpy(np.array(x)) for k, x in to_torch_names(model.config, model.params).items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "mine.pt")
    convert(tmp_path / "mine.pt", tmp_path / "model")
    nib.save(nib.Nifti1Image(rng.normal(300, 80, (20, 18, 16)).astype(np.int16), np.eye(4)), tmp_path / "scan.nii.gz")
    for name in ("mine.pt", "model"):
        call = ["predict", "-i", "scan.nii.gz", "-o", f"out_{name}", "-m", name, "--no-tta", "--no-tables"]
        call = [str(tmp_path / word) if word in ("scan.nii.gz", f"out_{name}", name) else word for word in call]
        assert command_line.main(call) == 0
    one, other = (nib.load(tmp_path / f"out_{n}" / "scan_probability.nii.gz") for n in ("mine.pt", "model"))
    np.testing.assert_array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj))
    capsys.readouterr()
    assert command_line.main(["info", "--json", str(tmp_path / "mine.pt")]) == 0
    (told,) = json.loads(capsys.readouterr().out)["networks"]
    assert told["kind"] == "PyTorch state dict (under 'state_dict')" and told["architecture"] == model.config.to_dict()


@pytest.mark.core
def test_convert_and_info_take_the_same(tree, tmp_path, capsys):
    task = tree / TREE / T2W.folder
    assert command_line.main(["convert", str(task), str(tmp_path / "pvs")]) == 0
    assert len(load_models(tmp_path / "pvs")) == 2
    capsys.readouterr()
    assert command_line.main(["info", str(tmp_path / "pvs"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["networks"]
    assert [one["fold"] for one in told] == ["fold_0", "fold_1"]
    assert told[0]["recipe"]["spacing"] == [0.8, 0.8, 0.8] and len(told[0]["provenance"]["source_sha256"]) == 64
