"""A whole run: its files, resuming after real kills bit for bit, and what it refuses."""

import copy
import csv
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

import mednext_jax
from mednext_jax.data.case_store import CaseStore
from mednext_jax.errors import InputError, WorkError
from mednext_jax.evaluate.scores_file import read_scores
from mednext_jax.io.lock import locked
from mednext_jax.train.configuration import TrainConfig
from mednext_jax.train.folds import cross_validate
from mednext_jax.train.run import LOCK
from mednext_jax.train.stop import stop_signal
from mednext_jax.train.train import train
from mednext_jax.weights.directory import load_model, load_models

pytestmark = pytest.mark.core

STEPS = 20


@pytest.fixture(scope="module")
def compiled_once(quickly_compiled, tmp_path_factory):
    """Compiled programs are shared between the runs and processes of this file."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    values = (str(tmp_path_factory.mktemp("compiled")), 0.0)
    for name, value in zip(names, values, strict=True):
        jax.config.update(name, value)
    yield quickly_compiled | {name.upper(): str(value) for name, value in zip(names, values, strict=True)}
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="module")
def config(tiny):
    config = copy.deepcopy(tiny)
    config.steps, config.steps_per_epoch, config.validation_steps = STEPS, 8, 1
    config.checkpoint.steps = 5
    config.final_validation = False
    config.optimiser.ema = 0.9
    config.optimiser.schedule = "constant"  # with others the number of steps is part of the compiled program
    return config


@pytest.fixture(scope="module")
def straight(config, compiled_once, tmp_path_factory):
    """A run without interruption."""
    workdir = tmp_path_factory.mktemp("straight")
    whole = copy.deepcopy(config)
    whole.final_validation = True
    assert train(whole, workdir) == workdir / "model"
    return workdir


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def exact(rows):
    """The columns that do not measure time."""
    timed = ("seconds", "samples_per_second", "data_wait")
    return [{k: v for k, v in row.items() if k not in timed} for row in rows]


def test_a_run_leaves_a_model_its_configuration_and_tables(straight, config):
    model = load_model(straight / "model")
    assert model.recipe.channel_names == ("T2w",)
    assert model.recipe.patch_size == config.patch_size
    assert model.provenance["steps"] == STEPS
    assert model.provenance["config"]["optimiser"]["name"] == "adamw"
    store, counts, volumes = CaseStore.open(config.data), [], []
    for case in store.splits[0]["train"]:
        label = store.read(case)[1]
        counts.append(ndimage.label(label == 1, np.ones((3, 3, 3)))[1])
        volumes.append(float((label == 1).sum()))  # of 1 mm3
    expected = {"count": [min(counts), max(counts)], "volume_mm3": [min(volumes), max(volumes)]}
    assert model.provenance["training_range"] == expected
    card = (straight / "model" / "README.md").read_text()
    assert "3 scans of 3 subjects" in card and "voxel Dice" in card and "not for clinical use" in card
    assert json.loads((straight / "config.json").read_text())["batch_size"] == config.batch_size
    assert [int(row["step"]) for row in table(straight / "steps.csv")] == list(range(1, STEPS + 1))
    epochs = table(straight / "metrics.csv")
    assert [int(row["epoch"]) for row in epochs] == [1, 2, 3]
    assert float(epochs[-1]["train_loss"]) < float(epochs[0]["train_loss"])


def test_validation_scans_are_segmented_on_their_own_grid_and_scored(straight, config):
    scores = {case: regions["all"] for case, regions in read_scores(straight / "validation")["cases"].items()}
    assert list(scores) == ["case_0"]
    mask = nib.load(straight / "validation" / "case_0_mask.nii.gz")
    # The stored case is the scan's whole grid but for the margins of its non-zero box.
    store = CaseStore.open(config.data)
    image, label = store.read("case_0")
    properties = store.record("case_0")["properties"]
    assert mask.shape == tuple(store.record("case_0")["stored_shape"])
    np.testing.assert_array_equal(mask.affine, store.record("case_0")["affine"])
    box = tuple(slice(o, o + n) for o, n in zip(properties["box_start"], properties["box_shape"], strict=True))
    found = np.asarray(mask.dataobj).transpose(2, 1, 0)[box] > 0
    both = np.sum(found & (label > 0))
    assert scores["case_0"]["dice"] == pytest.approx(2 * both / (found.sum() + (label > 0).sum()))
    assert load_model(straight / "model").provenance["validation_dice"] == {"case_0": scores["case_0"]["dice"]}
    assert (straight / "progress.png").stat().st_size > 10_000
    assert (straight / "pictures" / f"step_{STEPS}" / "case_0.png").stat().st_size > 10_000


def test_a_validation_scan_without_pvs_has_no_dice_and_the_model_is_written(straight, config, compiled_once, tmp_path):
    run = shutil.copytree(straight, tmp_path / "run")
    shutil.rmtree(run / "model")
    summary = json.loads((run / "validation" / "summary.json").read_text())
    summary["cases"]["case_0"]["all"]["dice"] = None
    (run / "validation" / "summary.json").write_text(json.dumps(summary))
    whole = copy.deepcopy(config)
    whole.final_validation = True
    train(whole, run)
    assert load_model(run / "model").provenance["validation_dice"] == {"case_0": None}


def test_cross_validation_trains_each_fold_and_collects_them(config, tmp_path, compiled_once, capsys):
    short = copy.deepcopy(config)
    short.steps, short.final_validation = 2, True
    ensemble = cross_validate(short, tmp_path / "cv")
    assert [path.name for path in sorted(ensemble.iterdir())] == ["fold_0", "fold_1"]
    assert len(load_models(ensemble)) == 2
    printed = capsys.readouterr().out
    written = tmp_path / "cv" / "cross_validation"
    rows = [(row["fold"], row["case"], row["region"]) for row in table(written / "cases.csv")]
    scans = (("0", "case_0"), ("1", "case_3"))
    assert rows == [(*scan, region) for scan in scans for region in ("whole", "left", "right")]
    assert "2FCV: 2 scans" in printed and printed.endswith((written / "table.md").read_text())
    assert cross_validate(short, tmp_path / "cv") == ensemble  # nothing is left to do


def test_a_finished_run_is_left_alone(straight, config, capsys):
    before = (straight / "steps.csv").read_bytes()
    assert train(config, straight) == straight / "model"
    assert "finished" in capsys.readouterr().out
    assert (straight / "steps.csv").read_bytes() == before


def test_a_finished_run_with_another_configuration_is_refused(straight, config, write_data, tmp_path):
    for values, words in (
        ({"seed": 5}, "another config.seed"),
        ({"steps": STEPS + 1}, "another config.steps(.|\n)*to train on, remove its model"),
        ({"data": str(write_data(tmp_path / "prepared", cases=5))}, "data set is not the one"),
    ):
        other = copy.deepcopy(config)
        other.update(values)
        with pytest.raises(InputError, match=words):
            train(other, straight)


def test_a_second_run_in_one_folder_is_refused_and_names_the_first(config, tmp_path):
    with locked(tmp_path / LOCK, "held by the test"):
        with pytest.raises(InputError, match=f"Another training runs in this folder.(.|\n)*process {os.getpid()} on"):
            train(config, tmp_path)
    assert not any(tmp_path.iterdir())


def wait_for_rows(path, count, process):
    for _ in range(12_000):
        if path.is_file() and len(table(path)) >= count:
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    raise AssertionError("the process makes no steps")


def test_stopped_and_killed_runs_continue_bit_for_bit(straight, config, compiled_once, tmp_path):
    """SIGTERM after some steps, then SIGKILL after some more, then to the end: as if nothing had happened."""
    values, workdir = tmp_path / "config.json", tmp_path / "run"
    values.write_text(config.to_json())
    command = [sys.executable, str(Path(__file__).with_name("run_training.py")), str(values), str(workdir)]

    environ = {**os.environ, **compiled_once, "PYTHONPATH": str(Path(mednext_jax.__file__).parents[1])}

    def start():
        return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    process = start()
    wait_for_rows(workdir / "steps.csv", 3, process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert "the same command continues" in output
    stopped_at = len(table(workdir / "steps.csv"))
    assert 3 <= stopped_at < STEPS

    process = start()
    wait_for_rows(workdir / "steps.csv", max(stopped_at, 11) + 1, process)
    process.kill()
    process.communicate()
    assert not (workdir / "model").exists()

    assert train(config, workdir) == workdir / "model"
    assert table(workdir / "steps.csv") == table(straight / "steps.csv")
    assert exact(table(workdir / "metrics.csv")) == exact(table(straight / "metrics.csv"))
    expected, found = load_model(straight / "model").params, load_model(workdir / "model").params
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_another_configuration_does_not_continue_a_run(config, tmp_path, compiled_once, write_data):
    short = copy.deepcopy(config)
    short.steps = 2
    train(short, tmp_path / "run")
    (tmp_path / "run" / "model").rename(tmp_path / "model")
    longer = copy.deepcopy(config)
    longer.steps = 3
    other = copy.deepcopy(longer)
    other.model.base_channels, other.seed = 8, 1
    with pytest.raises(InputError, match="config.seed, config.model|config.model, config.seed"):
        train(other, tmp_path / "run")
    changed = copy.deepcopy(longer)
    changed.data = str(write_data(tmp_path / "prepared", cases=5))
    with pytest.raises(InputError, match="data set is not the one"):
        train(changed, tmp_path / "run")
    (tmp_path / "run" / "validation").mkdir()
    with pytest.raises(InputError, match="earlier end of the run"):  # else the model's card would have its scores
        train(longer, tmp_path / "run")
    (tmp_path / "run" / "validation").rmdir()
    train(longer, tmp_path / "run")  # more steps are not another run
    assert len(table(tmp_path / "run" / "steps.csv")) == 3


def test_three_steps_that_are_not_finite_stop_the_run_and_name_the_cases(config, tmp_path, compiled_once, write_data):
    bad = copy.deepcopy(config)
    bad.data = str(write_data(tmp_path / "prepared", cases=2, poison="case_1"))
    with pytest.raises(WorkError, match="case_1"):
        train(bad, tmp_path / "run")
    assert [int(row["skipped"]) for row in table(tmp_path / "run" / "steps.csv")] == [1, 2, 3]
    assert (tmp_path / "run" / "checkpoints" / "4").is_dir() or (tmp_path / "run" / "checkpoints" / "3").is_dir()
    assert not (tmp_path / "run" / "model").exists()


def test_fine_tuning_starts_from_the_weights_of_a_model(straight, config, tmp_path, compiled_once):
    tuned = copy.deepcopy(config)
    tuned.init_from, tuned.steps = str(straight / "model"), 1
    train(tuned, tmp_path / "run")
    expected, found = load_model(straight / "model").params, load_model(tmp_path / "run" / "model").params
    # One update of AdamW moves a weight by about the learning rate at most, and a tenth of it goes into the average.
    limit = 0.11 * config.optimiser.learning_rate
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=limit), found, expected)


@pytest.fixture(scope="module")
def watched(config, compiled_once, write_data, tmp_path_factory):
    """A run with a checkpoint after each step, whole scans after each epoch and a trace: (configuration, workdir)."""
    folder = tmp_path_factory.mktemp("watched")
    watched = copy.deepcopy(config)
    watched.data = str(write_data(folder / "prepared"))
    watched.steps, watched.steps_per_epoch, watched.scan_validation_epochs = 4, 2, 1
    watched.checkpoint.steps, watched.checkpoint.minutes, watched.checkpoint.keep = 0, 1e-9, 10
    watched.profile = (1, 2)
    train(watched, folder / "run")
    return watched, folder / "run"


def test_a_run_is_saved_by_the_clock_and_can_be_watched(watched):
    _, workdir = watched
    assert sorted(int(path.name) for path in (workdir / "checkpoints").iterdir()) == [1, 2, 3, 4]
    assert all(0 <= float(row["scan_dice"]) <= 1 for row in table(workdir / "metrics.csv"))
    assert [path.name for path in sorted((workdir / "pictures").iterdir())] == ["step_2", "step_4"]
    installed = importlib.util.find_spec("tensorboardX") is not None
    assert any(workdir.glob("events/*")) == installed
    assert list((workdir / "profile").rglob("*.xplane.pb"))


def test_a_damaged_chunk_stops_a_run_and_leaves_its_checkpoints(watched):
    config, workdir = watched
    (workdir / "model").rename(workdir / "first_model")
    longer = copy.deepcopy(config)
    longer.steps, longer.profile = 6, (0, 0)
    arrays = [
        path for path in Path(config.data).glob("cases/*/image/**/*") if path.is_file() and path.suffix != ".json"
    ]
    sound = {path: path.read_bytes() for path in arrays}
    assert len(sound) == 4
    for path, data in sound.items():
        path.write_bytes(bytes(255 - b for b in data))
    with pytest.raises(InputError, match="A stored case cannot be read"):
        train(longer, workdir)
    assert sorted(int(path.name) for path in (workdir / "checkpoints").iterdir()) == [1, 2, 3, 4]
    for path, data in sound.items():
        path.write_bytes(data)
    assert train(longer, workdir) == workdir / "model"
    assert len(table(workdir / "steps.csv")) == 6


def test_ctrl_c_stops_after_the_step_and_a_second_one_at_once():
    with stop_signal() as stopped:
        os.kill(os.getpid(), signal.SIGINT)
        assert stopped.wait(5)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": "/nowhere"}, "prepare"),
        ({"fold": "2"}, "0 to 1"),
        ({"steps": 0}, "config.steps"),
        ({"batch_size": 0}, "config.batch_size"),
        ({"upkern": True}, "config.init_from, which is not set"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(config, tmp_path, changes, words):
    wrong = copy.deepcopy(config)
    wrong.update(changes)
    with pytest.raises(InputError) as error:
        train(wrong, tmp_path / "run")
    assert words in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_something_else_is_not_used(config, tmp_path):
    (tmp_path / "thesis.txt").write_text("text")
    with pytest.raises(InputError, match="exists"):
        train(config, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_recipe_by_name_with_changes_goes_to_a_run_or_to_every_fold(config, tmp_path):
    with pytest.raises(InputError, match="prepare"):
        train("demo", tmp_path / "run", overrides={"data": "/nowhere"})
    with pytest.raises(InputError, match="config.steps is not valid"):
        train(config, tmp_path / "run", overrides=["--config.steps=0"])
    assert config.steps == STEPS  # the caller's own is as it was
    with pytest.raises(InputError, match="needs config.final_validation"):
        train("demo", tmp_path / "folds", overrides={"data": config.data}, cv=True)
    with pytest.raises(InputError, match="config.fold chooses one"):
        train("demo", tmp_path / "folds", overrides={"data": config.data, "fold": "1"}, cv=True)
    assert not list(tmp_path.iterdir())


def test_cross_validation_is_neither_one_fold_nor_in_the_folder_of_one(config, tmp_path):
    with pytest.raises(InputError, match="config.fold chooses one"):
        cross_validate({**TrainConfig.of(config).plain(), "fold": "1"}, tmp_path)
    (tmp_path / "config.json").touch()
    with pytest.raises(InputError, match="holds one training"):
        cross_validate(config, tmp_path)
