"""Reading configurations, and what is refused with which words."""

from pathlib import Path

import pytest
from mednext_jax.train.config import check_config, default_config, load_config

from mednext_jax.errors import InputError

pytestmark = pytest.mark.core

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def valid():
    config = default_config()
    config.data = "prepared"
    return config


@pytest.mark.parametrize(
    "source", ["demo.py", "mednext.py", "mednext.py:B/5", "mednet_pvs_t1w.py", "mednet_pvs_t2w.py"]
)
def test_every_recipe_needs_only_the_data(source):
    config = load_config(str(CONFIGS / source), ["--config.data=prepared"])
    check_config(config)


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
        (None, "does not exist"),
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
    check_config(valid)
    node = valid
    *parents, name = field.split(".")
    for parent in parents:
        node = node[parent]
    node[name] = value
    with pytest.raises(InputError) as error:
        check_config(valid)
    assert f"config.{field} " in str(error.value)


def test_a_loss_without_a_term_is_refused(valid):
    valid.loss.dice = valid.loss.cross_entropy = 0.0
    with pytest.raises(InputError, match="config.loss"):
        check_config(valid)


def test_all_problems_are_reported_together(valid):
    valid.steps, valid.batch_size, valid.model.norm = 0, 0, "batch"
    with pytest.raises(InputError) as error:
        check_config(valid)
    assert len(error.value.problems) == 3
