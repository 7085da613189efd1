"""Back to PyTorch: bit-identical, in the class's own key order, accepted strictly by the real classes."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from mednext_jax.convert import from_torch, to_torch
from mednext_jax.errors import InputError
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.weights.names import expected_shapes, from_torch_names

torch = pytest.importorskip("torch")
mednext = pytest.importorskip("monai.networks.nets.mednext")


def params_of(config: MedNeXtConfig, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    shapes = expected_shapes(config)
    return from_torch_names(config, {key: rng.standard_normal(s, np.float32) for key, s in shapes.items()})


def identical(a, b) -> bool:
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


SLOW = pytest.mark.slow  # the wide ones


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("variant", ["S", "B", pytest.param("M", marks=SLOW), pytest.param("L", marks=SLOW)])
def test_monai_round_trip(tmp_path, variant, kernel, heads):
    net = mednext.create_mednext(variant, out_channels=3, kernel_size=kernel, deep_supervision=heads)
    torch.save(net.state_dict(), tmp_path / "in.pt")
    config, params = from_torch(tmp_path / "in.pt")
    to_torch(tmp_path / "out.pt", config, params, flavour="monai")
    back = torch.load(tmp_path / "out.pt", weights_only=True)
    assert identical(back, net.state_dict())
    net.load_state_dict(back, strict=True)
    assert config.down_expansion == ("mic" if variant == "S" else "monai")


def test_monai_with_every_option_round_trips(tmp_path):
    net = mednext.MedNeXt(
        init_filters=2,
        in_channels=3,
        encoder_expansion_ratio=(2, 3, 4, 5),
        decoder_expansion_ratio=(6, 5, 3, 2),
        bottleneck_expansion_ratio=7,
        kernel_size=5,
        deep_supervision=True,
        use_residual_connection=True,
        blocks_down=(1, 2, 1, 2),
        blocks_bottleneck=3,
        blocks_up=(2, 1, 2, 1),
        global_resp_norm=True,
    )
    torch.save({"state_dict": net.state_dict()}, tmp_path / "in.pt")
    config, params = from_torch(tmp_path / "in.pt")
    assert (config.grn, config.grn_down, config.in_channels) == (True, "monai", 3)
    to_torch(tmp_path / "out.pt", config, params, flavour="monai")
    assert identical(torch.load(tmp_path / "out.pt", weights_only=True), net.state_dict())


@pytest.mark.parametrize("kernel", [3, 5])
def test_variant_s_goes_from_one_naming_to_the_other_and_back_bit_for_bit(tmp_path, kernel):
    net = mednext.create_mednext("S", kernel_size=kernel, deep_supervision=True)
    torch.save(net.state_dict(), tmp_path / "monai.pt")
    to_torch(tmp_path / "mic.pt", *from_torch(tmp_path / "monai.pt"), flavour="mic")
    to_torch(tmp_path / "back.pt", *from_torch(tmp_path / "mic.pt"), flavour="monai")
    assert identical(torch.load(tmp_path / "back.pt", weights_only=True), net.state_dict())


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"deep_supervision": True, "encoder_kernel_size": 3, "decoder_kernel_size": 5},
        {"grn": True, "norm": "layer"},
        {"residual_resampling": False, "residual": False},
    ],
)
def test_mic_files_have_the_dummy_first_and_keep_every_bit(tmp_path, fields):
    config = MedNeXtConfig.variant("B", base_channels=2, **fields)
    params = params_of(config)
    to_torch(tmp_path / "x.pt", config, params)
    state = torch.load(tmp_path / "x.pt", weights_only=True)
    assert list(state) == list(expected_shapes(config))
    assert next(iter(state)) == "dummy_tensor" and state["dummy_tensor"].item() == 1.0
    back = from_torch(tmp_path / "x.pt", norm=config.norm, residual=config.residual)
    assert back[0] == config
    assert all(
        np.array_equal(a, b) for a, b in zip(leaves_of(params), leaves_of(back[1]), strict=True)
    )  # float32 on both sides, no NaN


def leaves_of(tree: dict) -> list:
    return [leaf for value in tree.values() for leaf in (leaves_of(value) if isinstance(value, dict) else [value])]


RATIOS = {"expansion_ratios": (2, 3, 4, 4, 4, 4, 4, 3, 2), "base_channels": 2}


@pytest.mark.parametrize(
    ("fields", "flavour", "reason"),
    [
        (RATIOS | {"down_expansion": "monai"}, "mic", "ratios of the stages above"),
        (RATIOS, "monai", "ratios of the stages below"),
        ({"grn": True, "grn_down": "all"}, "mic", "global response"),
        ({"grn": True, "grn_down": "mic"}, "monai", "global response"),
        ({"norm": "layer"}, "monai", "layer norm"),
        ({"decoder_kernel_size": 5}, "monai", "different sizes"),
        ({"residual_resampling": False}, "monai", "residual"),
    ],
)
def test_what_a_class_cannot_hold_is_refused_with_the_reason(tmp_path, fields, flavour, reason):
    config = MedNeXtConfig(**{"base_channels": 2} | fields)
    with pytest.raises(InputError, match=reason):
        to_torch(tmp_path / "x.pt", config, params_of(config), flavour=flavour)
    assert not (tmp_path / "x.pt").exists()


def test_without_torch_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    config = MedNeXtConfig(base_channels=2)
    with pytest.raises(InputError, match=r"mednext-jax\[torch\]"):
        to_torch(tmp_path / "x.pt", config, params_of(config))


def test_an_existing_file_is_not_overwritten(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"mine")
    config = MedNeXtConfig(base_channels=2)
    with pytest.raises(InputError, match="exists"):
        to_torch(tmp_path / "x.pt", config, params_of(config))
    assert (tmp_path / "x.pt").read_bytes() == b"mine"
