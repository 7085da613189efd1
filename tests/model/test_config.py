"""Configurations: the variants, their checks, their way to a file and back."""

from __future__ import annotations

import dataclasses

import pytest

from mednext_jax.errors import InputError
from mednext_jax.model.config import MedNeXtConfig

pytestmark = pytest.mark.core


@pytest.mark.parametrize("name", ["S", "B", "M", "L"])
@pytest.mark.parametrize("kernel_size", [3, 5, 7])
def test_variant_knows_its_name(name, kernel_size):
    config = MedNeXtConfig.variant(name, kernel_size=kernel_size, in_channels=2, num_classes=4, dtype="bfloat16")
    assert config.variant_name == f"MedNeXt-{name} k{kernel_size}"
    assert MedNeXtConfig.from_dict(config.to_dict()) == config


def test_changed_architecture_has_no_name():
    assert MedNeXtConfig.variant("S", base_channels=16).variant_name is None
    assert MedNeXtConfig.variant("S", grn=True).variant_name is None
    assert MedNeXtConfig.variant("L", down_expansion="monai").variant_name is None
    # All ratios of S are the same, so MONAI's S is the paper's.
    assert MedNeXtConfig.variant("S", down_expansion="monai").variant_name == "MedNeXt-S k3"


def test_derived_widths():
    config = MedNeXtConfig.variant("L", grn=True)
    assert config.stage_channels == (32, 64, 128, 256, 512, 256, 128, 64, 32)
    assert config.down_expansion_ratios == (4, 8, 8, 8)
    assert config.up_expansion_ratios == (8, 8, 4, 3)
    assert config.down_grn == (False, True, True, True)
    assert dataclasses.replace(config, down_expansion="monai").down_expansion_ratios == (3, 4, 8, 8)
    assert dataclasses.replace(config, grn_down="monai").down_grn == (False,) * 4
    assert dataclasses.replace(config, grn_down="all").down_grn == (True,) * 4
    assert dataclasses.replace(config, grn=False, grn_down="all").down_grn == (False,) * 4


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("in_channels", 0),
        ("num_classes", 2.0),
        ("base_channels", True),
        ("base_channels", 10**12),
        ("expansion_ratios", (2,) * 8),
        ("expansion_ratios", "222222222"),
        ("block_counts", (2,) * 8 + (0,)),
        ("block_counts", (10**9,) * 9),
        ("encoder_kernel_size", 4),
        ("decoder_kernel_size", None),
        ("deep_supervision", 1),
        ("norm", "batch"),
        ("grn", "yes"),
        ("grn_down", "none"),
        ("down_expansion", ["mic"]),
        ("dtype", "float16"),
        ("remat", None),
    ],
)
def test_error_names_the_field(field, value):
    with pytest.raises(InputError, match=f"MedNeXtConfig.{field} "):
        MedNeXtConfig.from_dict({field: value})


def test_all_problems_at_once():
    with pytest.raises(InputError) as caught:
        MedNeXtConfig(in_channels=-1, norm="batch")
    assert len(caught.value.problems) == 2


def test_unknown_names():
    with pytest.raises(InputError, match="num_clases.*\n.*did you mean 'num_classes'"):
        MedNeXtConfig.from_dict({"num_clases": 3})
    with pytest.raises(InputError, match="unknown MedNeXt variant"):
        MedNeXtConfig.variant("XL")
    with pytest.raises(InputError, match="kernel_size"):
        MedNeXtConfig.variant("S", kernel_size=4)


def test_the_blocks_of_a_network_are_those_that_it_has():
    from mednext_jax.model.config import published_kinds

    config = MedNeXtConfig.variant("L", kernel_size=5, encoder_kernel_size=3, residual_resampling=False)
    found = [(str(kind), level, number) for kind, level, number in config.blocks()]
    assert found[:3] == [
        ("block 32-96-32 k3", 0, 3),
        ("down 32-128-64 k3 without residual", 0, 1),  # by the ratio of the stage below
        ("block 64-256-64 k3", 1, 4),
    ]
    assert found[8] == ("block 512-4096-512 k5", 4, 8)  # the bottleneck's kernels are the decoder's
    assert found[-2:] == [("up 64-192-32 k5 without residual", 1, 1), ("block 32-96-32 k5", 0, 3)]
    assert len(found) == 17 and sum(number for _, _, number in found) == sum(config.block_counts) + 8
    paper = {kind for kind, _, _ in MedNeXtConfig.variant("L", kernel_size=5).blocks()}
    assert paper < set(published_kinds()) and len(published_kinds()) == len(set(published_kinds()))
