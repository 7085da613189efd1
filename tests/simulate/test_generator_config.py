from __future__ import annotations

import dataclasses

import pytest

from mednext_jax.errors import InputError
from mednext_jax.simulate.generator_config import GeneratorConfig
from mednext_jax.train.configuration import TrainConfig, default_config

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("families", (0.0, 0.0, 0.0, 0.0), "not all 0"),
        ("families", (1.0, 1.0), "four weights"),
        ("centres", (1.0, -1.0, 0.0), "three weights"),
        ("scaling", 0.7, "0 to 0.5"),
        ("rotation", float("nan"), "degrees"),
        ("width", (3.0, 0.4), "first not larger"),
        ("white_matter", (10, 5000), "from 0 to 1500"),
        ("white_matter", (1.5, 3), "whole numbers"),
        ("noise", (0.01, float("nan")), "two numbers"),
        ("blur", (0.0, 0.6), "from 0.05"),
        ("slice_spacing", (0.5, 5.0), "from 1"),
        ("extraction", 1.5, "0 to 1"),
        ("validation_scans", 1, "from 2 to 1000"),
        ("validation_scans", 10**9, "from 2 to 1000"),
        ("families", (1e308, 1e308, 1e308, 1e308), "to 1e6"),  # whose sum is no number
        ("gamma", 1e30, "from 0 to 1"),  # nor are the intensities of any of these
        ("signal_scatter", 1e30, "from 0 to 1"),
        ("label_noise", float("inf"), "from 0 to 100"),
        ("length_median", float("inf"), "finite"),
        ("width_median", 0.0, "above 0"),
        ("elastic", (0.0, 30.0), "from 0 to 4"),
    ],
)
def test_a_value_out_of_its_range_is_named(field, value, expected):
    config = default_config()
    config.generator.enabled = True
    with config.unlocked(), config.ignore_type():
        config.generator[field] = value
    with pytest.raises(InputError, match=rf"generator\.{field} is not valid") as error:
        TrainConfig.of(config)
    assert expected in str(error.value)


def test_a_generator_without_any_perivascular_space_is_refused():
    config = default_config()
    config.generator.enabled = True
    for field in ("white_matter", "basal_ganglia", "hippocampus", "midbrain"):
        config.generator[field] = (0, 0)
    with pytest.raises(InputError, match="a region that may have perivascular spaces"):
        TrainConfig.of(config)


def test_data_and_generator_exclude_each_other_and_one_is_needed():
    config = default_config()
    with pytest.raises(InputError, match="mednext-jax prepare"):
        TrainConfig.of(config)
    config.data, config.generator.enabled = "somewhere", True
    with pytest.raises(InputError, match="simulates its own scans"):
        TrainConfig.of(config)


def test_every_field_says_what_it_means_and_takes_its_default():
    for field in dataclasses.fields(GeneratorConfig):
        assert field.metadata["meaning"], field.name
        assert field.metadata["allowed"].holds(field.default), field.name
