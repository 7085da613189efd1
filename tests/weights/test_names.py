"""Keys, order and shapes against manifests taken from the PyTorch classes themselves."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from mednext_jax.errors import InputError
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.weights.names import DUMMY, expected_shapes, from_torch_names, leaves, to_torch_names

pytestmark = pytest.mark.core

MANIFESTS = json.loads(
    gzip.decompress((Path(__file__).parent.parent / "data/manifests/state_dicts.json.gz").read_bytes())
)
VOLUMETRIC = [name for name in MANIFESTS if "2d" not in name]


def config_of(name: str) -> MedNeXtConfig:
    """statedict_B_k3_ds0_grn -> its configuration."""
    _, variant, kernel, heads, *extra = name.removeprefix("monai_").split("_")
    return MedNeXtConfig.variant(
        variant,
        kernel_size=int(kernel[1:]),
        in_channels=MANIFESTS[name]["in_channels"],
        num_classes=MANIFESTS[name]["num_classes"],
        deep_supervision=heads == "ds1",
        grn="grn" in extra,
        norm="layer" if "layernorm" in extra else "group",
        down_expansion="monai" if name.startswith("monai") else "mic",
    )


def random_params(config: MedNeXtConfig, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    shapes = expected_shapes(config)
    state = {key: rng.standard_normal(shape, np.float32) for key, shape in shapes.items()}
    return from_torch_names(config, state)


def tiny(**fields) -> MedNeXtConfig:
    return MedNeXtConfig.variant("S", base_channels=2, **fields)


@pytest.mark.parametrize("name", VOLUMETRIC)
def test_keys_order_and_shapes_are_those_of_the_pytorch_class(name):
    flavour = "monai" if name.startswith("monai") else "mic"
    shapes = expected_shapes(config_of(name), flavour)
    assert list(shapes.items()) == [(key, tuple(shape)) for key, shape in MANIFESTS[name]["shapes"].items()]
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == MANIFESTS[name]["parameters"]


def test_there_are_sixteen_manifests_of_each_naming():
    assert len([name for name in VOLUMETRIC if name.startswith("monai")]) == 16
    assert len([name for name in VOLUMETRIC if name.startswith("statedict")]) == 16 + 2


@pytest.mark.parametrize("flavour", ["mic", "monai"])
@pytest.mark.parametrize("fields", [{}, {"deep_supervision": True, "grn": True}, {"residual_resampling": False}])
def test_round_trip_is_bit_identical(flavour, fields):
    config = tiny(**fields)
    shapes = expected_shapes(config, flavour)
    rng = np.random.default_rng(1)
    state = {key: rng.standard_normal(shape, np.float32) for key, shape in shapes.items()}
    if flavour == "mic":
        state[DUMMY] = np.ones(1, np.float32)
    back = to_torch_names(config, from_torch_names(config, state, flavour), flavour)
    assert list(back) == list(state)
    for key in state:
        assert back[key].tobytes() == state[key].tobytes(), key


def test_layouts():
    config = tiny()
    state = {key: np.zeros(shape, np.float32) for key, shape in expected_shapes(config).items()}
    state["up_0.conv1.weight"][3, 0, 0, 1, 2] = 7  # channel 3, tap (0, 1, 2)
    state["enc_block_0.1.conv2.weight"][3, 1] = 5  # from input 1 to output 3
    state["up_0.res_conv.weight"][3, 1] = 4  # a transposed convolution: from input 3 to output 1
    params = from_torch_names(config, state)
    assert params["up_0"]["conv1"]["kernel"].shape == (3, 3, 3, 4)
    assert params["up_0"]["conv1"]["kernel"][0, 1, 2, 3] == 7
    assert params["enc_block_0"]["1"]["conv2"]["kernel"][1, 3] == 5
    assert params["up_0"]["res_conv"]["kernel"][3, 1] == 4
    assert set(params["enc_block_0"]["0"]["norm"]) == {"scale", "bias"}
    for leaf in leaves(config):
        assert leaf.our_shape == leaf.to_ours(np.zeros(leaf.shape, np.float32)).shape


def test_global_response_norm_is_where_the_configuration_puts_it():
    for rule, first in (("all", 0), ("mic", 1), ("monai", 4)):
        keys = expected_shapes(tiny(grn=True, grn_down=rule))
        assert [f"down_{i}.grn_beta" in keys for i in range(4)] == [i >= first for i in range(4)]
        assert all(f"up_{i}.grn_beta" in keys for i in range(4))


def test_wrong_keys_and_shapes_are_listed():
    config = tiny()
    state = {key: np.zeros(shape, np.float32) for key, shape in expected_shapes(config).items()}
    del state["stem.bias"]
    state["extra.weight"] = np.zeros(1, np.float32)
    state["out_0.conv_out.bias"] = np.zeros(9, np.float32)
    with pytest.raises(InputError) as caught:
        from_torch_names(config, state)
    text = str(caught.value)
    assert "missing: stem.bias" in text
    assert "unexpected: extra.weight" in text
    assert "out_0.conv_out.bias" in text and "(9,)" in text


def test_params_that_do_not_fit_are_refused():
    params = random_params(tiny())
    del params["stem"]
    with pytest.raises(InputError, match="stem/kernel"):
        to_torch_names(tiny(), params)
