"""The architecture from shapes alone: every published variant, every option, and what is no MedNeXt."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from mednext_jax.convert.architecture import describe, recognise
from mednext_jax.errors import InputError
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.weights.names import DUMMY, expected_shapes

pytestmark = pytest.mark.core

MANIFESTS = json.loads(
    gzip.decompress((Path(__file__).parent.parent / "data/manifests/state_dicts.json.gz").read_bytes())
)


def ghosts(shapes) -> dict[str, np.ndarray]:
    """Arrays of the right shapes that take no memory."""
    return {key: np.broadcast_to(np.float32(0), tuple(shape)) for key, shape in shapes.items()}


@pytest.mark.parametrize("name", [name for name in MANIFESTS if "2d" not in name])
def test_every_manifest_is_recognised(name):
    found = recognise(ghosts(MANIFESTS[name]["shapes"]))
    flavour = "monai" if name.startswith("monai") else "mic"
    variant, kernel, heads = name.removeprefix("monai_").split("_")[1:4]
    assert found.flavour == flavour
    assert (found.config.encoder_kernel_size, found.config.decoder_kernel_size) == (int(kernel[1]), int(kernel[1]))
    assert found.config.deep_supervision == (heads == "ds1")
    assert found.config.grn == ("grn" in name)
    assert (found.config.in_channels, found.config.num_classes) == (1, 3)
    assert list(expected_shapes(found.config, flavour)) == list(MANIFESTS[name]["shapes"])
    if "grn" in name:
        assert "GRN" in found.name
    elif flavour == "mic":
        assert found.name == f"MedNeXt-{variant} {kernel}, MIC-DKFZ"
    elif variant == "S":
        assert found.name == f"MedNeXt-S {kernel}, MONAI"
    else:
        assert found.config.down_expansion == "monai"
        assert found.name == f"MedNeXt-{variant} {kernel} with MONAI's down ratios, MONAI"


@pytest.mark.parametrize(
    "fields",
    [
        {"base_channels": 8, "in_channels": 3, "num_classes": 5},
        {"encoder_kernel_size": 5, "decoder_kernel_size": 7},
        {"grn": True, "grn_down": "mic"},
        {"grn": True, "grn_down": "all", "deep_supervision": True},
        {"grn": True, "grn_down": "monai"},
        {"residual_resampling": False},
        {"expansion_ratios": (2, 3, 4, 4, 4, 4, 4, 3, 2), "down_expansion": "monai"},
        {"expansion_ratios": (1, 2, 3, 4, 5, 6, 7, 8, 9), "block_counts": (1, 2, 3, 1, 2, 3, 1, 2, 3)},
    ],
)
@pytest.mark.parametrize("flavour", ["mic", "monai"])
def test_every_option_that_leaves_a_trace_is_read(fields, flavour):
    config = MedNeXtConfig(**fields)
    found = recognise(ghosts(expected_shapes(config, flavour)))
    assert (found.config, found.flavour) == (config, flavour)


def test_what_leaves_no_trace_is_asked_for():
    config = MedNeXtConfig(norm="layer", residual=False)
    assert recognise(ghosts(expected_shapes(config)), norm="layer", residual=False).config == config


def test_stray_heads_are_left_out_and_said():
    config = MedNeXtConfig(deep_supervision=True)
    shapes = expected_shapes(config)
    del shapes["out_3.conv_out.weight"], shapes["out_3.conv_out.bias"]
    found = recognise(ghosts(shapes))
    assert not found.config.deep_supervision
    assert len(found.unused) == 6
    assert "[1, 2, 4]" in " ".join(found.notes)


@pytest.mark.parametrize("name", [name for name in MANIFESTS if "2d" in name])
def test_a_2d_network_is_refused(name):
    with pytest.raises(InputError, match="2D MedNeXt"):
        recognise(ghosts(MANIFESTS[name]["shapes"]))


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("conv_blocks_context.0.blocks.0.conv.weight", "Generic_UNet"),
        ("encoder.stages.0.0.convs.0.conv.weight", "PlainConvUNet"),
        ("encoder.stages.0.blocks.0.conv1.conv.weight", "ResidualEncoderUNet"),
        ("swinViT.patch_embed.proj.weight", "SwinUNETR"),
        ("model.0.conv.unit0.conv.weight", "MONAI UNet"),
        ("something.weight", "something.weight"),
    ],
)
def test_other_networks_are_named(key, name):
    with pytest.raises(InputError, match=f"(?s)not the weights of a MedNeXt.*{name}"):
        recognise({key: np.zeros((4, 1, 3, 3, 3), np.float32)}, file="x.pth")


def test_a_real_u_net_is_no_mednext():
    pytest.importorskip("torch")
    nets = pytest.importorskip("monai.networks.nets")
    unet = nets.UNet(spatial_dims=3, in_channels=1, out_channels=2, channels=(2, 4), strides=(2,))
    state = {key: x.numpy() for key, x in unet.state_dict().items()}
    with pytest.raises(InputError, match="MONAI UNet"):
        recognise(state)


def mixed(**changes) -> dict[str, np.ndarray]:
    shapes = expected_shapes(MedNeXtConfig.variant("B"))
    return ghosts({**shapes, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dec_block_1.0.conv1.weight": (64, 1, 5, 5, 5)}, "dec_block_1.0.conv1.weight"),
        ({"enc_block_2.1.conv2.weight": (256, 128, 1, 1, 1)}, "enc_block_2.1.conv2.weight"),
        ({"down_1.conv2.weight": (448, 64, 1, 1, 1)}, "down blocks"),
        ({"bottleneck.0.conv2.weight": (2047, 512, 1, 1, 1)}, "bottleneck.0 expands"),
        ({"stem.weight": (48, 1, 1, 1, 1)}, "stem.bias"),
        ({"enc_block_0.7.conv1.bias": (32,)}, "enc_block_0.2"),
        ({"enc_block_0.0.extra": (32,)}, "enc_block_0.0.extra"),
        ({"out_0.conv_out.weight": (3,)}, ""),
        ({"stem.weight": ()}, ""),
        ({"stem.weight": (0, 0, 1, 1, 1)}, ""),
        ({"bottleneck.0.conv2.weight": (0, 0, 1, 1, 1)}, ""),
    ],
)
def test_shapes_of_mixed_variants_are_refused(changes, words):
    with pytest.raises(InputError, match="mixed variants") as caught:
        recognise(mixed(**changes), file="x.pth")
    assert words in str(caught.value)


def test_missing_tensors_are_refused():
    state = mixed()
    del state["up_2.norm.bias"]
    with pytest.raises(InputError, match="up_2.norm.bias: missing"):
        recognise(state)


def test_monai_layer_norm_is_refused():
    state = ghosts(expected_shapes(MedNeXtConfig(), "monai") | {"enc_stages.0.0.norm.weight": (32, 3, 3, 3)})
    with pytest.raises(InputError, match="layer norm"):
        recognise(state)


def test_the_dummy_tensor_counts_for_nothing():
    shapes = expected_shapes(MedNeXtConfig())
    assert DUMMY in shapes
    without = {key: shape for key, shape in shapes.items() if key != DUMMY}
    assert recognise(ghosts(without)) == recognise(ghosts(shapes))


def test_names_for_people():
    assert describe(MedNeXtConfig.variant("L", kernel_size=5), "mic") == "MedNeXt-L k5, MIC-DKFZ"
    assert describe(MedNeXtConfig.variant("L", kernel_size=5)) == "MedNeXt-L k5"
    assert "8 channels, k3/5" in describe(MedNeXtConfig(base_channels=8, decoder_kernel_size=5))
