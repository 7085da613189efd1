"""Reading configurations, and what is refused with which words."""

import dataclasses
import json
from pathlib import Path

import pytest

from mednext_jax.errors import InputError
from mednext_jax.train.configuration import TrainConfig, changeable, default_config
from mednext_jax.train.recipes import load_config, recipe_names

pytestmark = pytest.mark.core

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def valid():
    config = default_config()
    config.data = "prepared"
    return config


@pytest.mark.parametrize("source", ["demo", "mednext", "mednext:B/5", "mednet_pvs_t1w", "mednet_pvs_t2w", "fine_tune"])
def test_every_recipe_needs_only_the_data_and_goes_by_name_and_by_file(source, tmp_path, monkeypatch):
    name, colon, argument = source.partition(":")
    by_file = load_config(f"{CONFIGS / name}.py{colon}{argument}", ["--config.data=prepared"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()  # `mednext-jax demo` leaves a folder of this name
    by_name = load_config(source, ["--config.data=prepared"])
    assert TrainConfig.of(by_name) == TrainConfig.of(by_file) != TrainConfig(data="prepared")


def test_the_recipes_are_the_files_in_configs():
    assert recipe_names() == sorted(path.stem for path in CONFIGS.glob("*.py"))


@pytest.mark.parametrize(
    ("source", "near"),
    [("mednet_pvs_t2", "mednet_pvs_t2w"), ("configs/mednet_pvs_t1w.py", "mednet_pvs_t1w"), ("xyzzy", None)],
)
def test_what_is_no_recipe_and_no_file_names_the_recipes(source, near, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        load_config(source)
    said = str(error.value)
    assert all(name in said for name in recipe_names())
    assert (f"did you mean --config {near}?" in said) if near else ("did you mean" not in said)


def test_the_recipes_of_the_paper_differ_from_the_defaults_in_these_fields():
    expected = TrainConfig(data="prepared").plain()
    expected["augment"]["policy"] = "moreDA"
    expected["model"].update(dtype="bfloat16", remat="dw")
    for name in ("mednet_pvs_t1w", "mednet_pvs_t2w"):
        assert TrainConfig.of(load_config(name, {"data": "prepared"})).plain() == expected
    # What the trainer's name and MedNeXt's and nnU-Net's code say.
    assert (expected["steps"], expected["steps_per_epoch"], expected["batch_size"]) == (500 * 250, 250, 2)
    assert expected["patch_size"] == [128, 128, 128] and expected["foreground_fraction"] == 0.33
    assert expected["model"]["expansion_ratios"] == [3, 4, 8, 8, 8, 8, 8, 4, 3]
    assert expected["model"]["block_counts"] == [3, 4, 8, 8, 8, 8, 8, 4, 3]
    assert expected["model"]["encoder_kernel_size"] == expected["model"]["decoder_kernel_size"] == 5
    assert expected["loss"]["deep_supervision"] == [16, 8, 4, 2, 1]
    names = ("name", "learning_rate", "weight_decay", "epsilon", "clip_norm", "schedule")
    assert [expected["optimiser"][name] for name in names] == ["adamw", 3e-4, 3e-5, 1e-4, 12, "poly"]


def test_a_file_that_was_written_for_release_0_1_0_is_read(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from mednext_jax.model.config import MedNeXtConfig\n"
        "from mednext_jax.train.config import architecture, default_config, small_objects\n"
        "def get_config():\n"
        "    c = small_objects(default_config())\n"
        "    c.model = architecture(MedNeXtConfig.variant('S', deep_supervision=True))\n"
        "    return c\n"
    )
    config = TrainConfig.of(load_config(file, {"data": "prepared"}))
    assert config.augment.scaling_range == (0.7, 1.1) and config.model.expansion_ratios == (2,) * 9


# What a run of release 0.1.0 wrote into config.json.
STORED = """{"data": "prepared", "fold": "0", "seed": 0, "steps": 6, "steps_per_epoch": 3, "validation_steps": 2,
"scan_validation_epochs": 0, "final_validation": true, "batch_size": 2, "accumulate": 1, "patch_size": [32, 32, 32],
"foreground_fraction": 0.33, "foreground_rule": "position", "model": {"base_channels": 4, "expansion_ratios":
[2, 2, 2, 2, 2, 2, 2, 2, 2], "block_counts": [1, 1, 1, 1, 1, 1, 1, 1, 1], "encoder_kernel_size": 3,
"decoder_kernel_size": 3, "deep_supervision": true, "norm": "group", "grn": false, "grn_down": "mic", "down_expansion":
"mic", "residual": true, "residual_resampling": true, "dtype": "float32", "remat": "none"}, "init_from": "", "upkern":
false, "loss": {"dice": 1.0, "cross_entropy": 1.0, "focal_tversky": 0.0, "cldice": 0.0, "batch_dice": false,
"deep_supervision": [16.0, 8.0, 4.0, 2.0, 1.0]}, "optimiser": {"name": "adamw", "learning_rate": 0.003, "weight_decay":
3e-05, "epsilon": 0.0001, "momentum": 0.99, "clip_norm": 12.0, "schedule": "poly", "power": 0.9, "warmup_steps": 0,
"ema": 0.0}, "augment": {"policy": "DA", "rotation": 0.0, "rotation_degrees": 30.0, "scaling": 0.0, "scaling_range":
[0.7, 1.4], "noise": 0.0, "noise_range": [0.0, 0.1], "blur": 0.0, "blur_range": [0.5, 1.0], "blur_per_channel": 0.0,
"brightness": 0.0, "brightness_range": [0.75, 1.25], "contrast": 0.0, "contrast_range": [0.75, 1.25], "low_resolution":
0.0, "low_resolution_range": [0.5, 1.0], "low_resolution_per_channel": 0.0, "inverted_gamma": 0.0, "gamma": 0.0,
"gamma_range": [0.7, 1.5], "mirror_axes": [2]}, "mesh": {"data": -1, "space": 1, "height": 1, "share_state": false},
"profile": [0, 0], "threads": 4, "checkpoint": {"minutes": 15.0, "steps": 0, "keep": 2}}"""


def test_a_stored_configuration_is_read_and_written_as_it_was(tiny):
    stored = json.loads(STORED)
    later = {"generator": TrainConfig().plain()["generator"]}  # a group that came later has its defaults
    assert TrainConfig.of(stored).plain() == {**stored, **later}
    # The same run, asked for today: it continues.
    assert {**TrainConfig.of(tiny).plain(), "data": "prepared"} == {**stored, **later}
    del stored["checkpoint"], stored["optimiser"]["ema"]  # a release that did not have these fields yet
    assert TrainConfig.of(stored) == TrainConfig.of(json.loads(STORED))


def test_the_surface_has_every_field_and_gives_the_same_configuration_back():
    config = TrainConfig(data="prepared", fold="all", patch_size=(32, 32, 48))
    assert TrainConfig.of(changeable(config)) == TrainConfig.of(config.plain()) == config
    assert set(default_config().keys()) == {field.name for field in dataclasses.fields(TrainConfig)}
    assert "in_channels" not in default_config().model  # the data set says it


def test_overrides_of_a_program_are_values():
    values = {"data": "prepared", "steps": 50, "optimiser.learning_rate": 1, "patch_size": [48, 48, 64]}
    config = TrainConfig.of(load_config("demo", values))
    assert (config.steps, config.optimiser.learning_rate, config.patch_size) == (50, 1.0, (48, 48, 64))
    for wrong in ({"stepz": 5}, {"steps": 0.5}, {"optimiser": 5}, {"steps.more": 1}, {"steps": "5"}):
        with pytest.raises(InputError) as error:
            load_config("demo", wrong)
        assert next(iter(wrong)).split(".")[-1] in str(error.value)


def test_a_field_that_is_set_but_not_known_is_refused(valid):
    valid.optimiser.learning_rat = 1.0
    with pytest.raises(InputError, match="(?s)config.optimiser.learning_rat.*did you mean 'learning_rate'"):
        TrainConfig.of(valid)


def test_the_config_json_of_a_run_is_a_configuration(tiny, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(TrainConfig.of(tiny).plain()))
    assert TrainConfig.of(load_config(file, ["--config.steps=7"])) == dataclasses.replace(TrainConfig.of(tiny), steps=7)
    for text, words in (("[1]", "no JSON object"), ('{"stesp": 1}', "did you mean 'steps'"), ("{", "not valid JSON")):
        file.write_text(text)
        with pytest.raises(InputError, match=words) as error:
            load_config(file)
        assert str(file) in str(error.value)


def test_recipe_argument_picks_the_variant():
    config = load_config(f"{CONFIGS}/mednext.py:M/5")
    assert config.model.block_counts == (3, 4, 4, 4, 4, 4, 4, 4, 3)
    assert config.model.encoder_kernel_size == 5
    for argument in ("X/3", "S", "S/4"):
        with pytest.raises(InputError):
            load_config(f"{CONFIGS}/mednext.py:{argument}")


def test_overrides_keep_the_type_of_the_field():
    overrides = (
        "--config.steps=50",
        "--config.patch_size=(48, 48,64)",
        "--config.fold=3",
        "--config.optimiser.learning_rate=1",
        "--config.loss.batch_dice=true",
        "--config.loss.deep_supervision=1,0.5,0,0,0",
        "--config.augment.mirror_axes=()",
        "--config.model.dtype=bfloat16",
    )
    config = load_config(str(CONFIGS / "demo.py"), overrides)
    assert config.steps == 50
    assert config.patch_size == (48, 48, 64)
    assert config.fold == "3"
    assert type(config.optimiser.learning_rate) is float
    assert config.loss.batch_dice is True
    assert config.loss.deep_supervision == (1, 0.5, 0, 0, 0)
    assert config.augment.mirror_axes == ()
    assert config.model.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("--config.stepz=5", "did you mean 'steps'"),
        ("--config.optimizer.momentum=0.5", "did you mean 'optimiser'"),
        ("--config.optimiser.learning_rat=0.5", "did you mean 'learning_rate'"),
        ("--config.xyzzy=5", "known fields"),
        ("--config.steps=0.5", "int"),
        ("--config.steps=abc", "int"),
        ("--config.steps=True", "int"),
        ("--config.loss.batch_dice=3", "bool"),
        ("--config.patch_size=(48, 48", "tuple"),
        ("--config.patch_size=48,48,1.5", "tuple"),
        ("--config.patch_size=__import__('os')", "tuple"),
        ("--config.optimiser=5", "group of fields"),
        ("--config.steps.more=5", "no fields"),
        ("--config.steps", "--config.field=value"),
        ("--steps=5", "--config.field=value"),
    ],
)
def test_wrong_overrides(override, words):
    with pytest.raises(InputError, match="(?s).*") as error:
        load_config(str(CONFIGS / "demo.py"), [override])
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no such configuration file"),
        ("def get_config(:", "SyntaxError"),
        ("a = 1", "no get_config()"),
        ("def get_config(): return 1", "int"),
        ("def get_config(): return 1 / 0", "ZeroDivisionError"),
    ],
)
def test_wrong_files(tmp_path, text, words):
    file = tmp_path / "recipe.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError) as error:
        load_config(str(file))
    assert words in str(error.value)
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data", ""),
        ("fold", "first"),
        ("fold", "-1"),
        ("seed", -1),
        ("seed", 2**31),
        ("threads", 10**6),
        ("steps", 0),
        ("steps_per_epoch", 0),
        ("validation_steps", -1),
        ("batch_size", 0),
        ("accumulate", 3),
        ("patch_size", (128, 128)),
        ("patch_size", (128, 128, 120)),
        ("patch_size", (128, 128, 0)),
        ("patch_size", (16, 16, 16 * 10**6)),
        ("foreground_fraction", 1.5),
        ("foreground_rule", "sometimes"),
        ("model.norm", "batch"),
        ("model.block_counts", (2,) * 8),
        ("loss.dice", -1.0),
        ("loss.dice", float("nan")),
        ("loss.deep_supervision", (0.0, 1.0, 1.0, 1.0, 1.0)),
        ("optimiser.name", "lion"),
        ("optimiser.learning_rate", 0.0),
        ("optimiser.learning_rate", float("inf")),
        ("optimiser.clip_norm", 0.0),
        ("optimiser.ema", 1.0),
        ("optimiser.schedule", "step"),
        ("augment.blur", -0.1),
        ("augment.policy", "DA5"),
        ("loss.deep_supervision", (float("inf"), 1.0, 1.0, 1.0, 1.0)),
        ("augment.blur_range", (0.5, 1.5)),
        ("augment.scaling_range", (1.4, 0.7)),
        ("augment.low_resolution_range", (0.0, 1.0)),
        ("augment.mirror_axes", (0, 0)),
        ("augment.mirror_axes", (3,)),
        ("profile", (20, 10)),
        ("mesh.data", 0),
        ("mesh.space", 0),
        ("checkpoint.minutes", 0.0),
        ("checkpoint.keep", 0),
    ],
)
def test_values_out_of_range_are_named(valid, field, value):
    TrainConfig.of(valid)
    node = valid
    *parents, name = field.split(".")
    for parent in parents:
        node = node[parent]
    node[name] = value
    with pytest.raises(InputError) as error:
        TrainConfig.of(valid)
    assert f"config.{field} " in str(error.value)


def test_a_loss_without_a_term_is_refused(valid):
    valid.loss.dice = valid.loss.cross_entropy = 0.0
    with pytest.raises(InputError, match="config.loss"):
        TrainConfig.of(valid)


def test_all_problems_are_reported_together(valid):
    valid.steps, valid.batch_size, valid.model.norm = 0, 0, "batch"
    with pytest.raises(InputError) as error:
        TrainConfig.of(valid)
    assert len(error.value.problems) == 3
