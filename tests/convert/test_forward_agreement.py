"""The same file gives the same output: a PyTorch network saved, read here, and run in JAX."""

from __future__ import annotations

import importlib

import jax
import numpy as np
import pytest

from mednext_jax.convert import from_torch, to_torch
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.model.mednext import MedNeXt
from tests.golden import CONFIGS, golden_case

torch = pytest.importorskip("torch")
reference = importlib.import_module("tools.torch_reference")  # it imports torch

SIZES = [(variant, kernel, heads) for variant in "SBML" for kernel in (3, 5) for heads in (False, True)]
SMALL = [("S", 3, True), ("S", 5, False), ("B", 3, False), ("B", 5, True)]
# Compiling takes most of a test's time and grows with the blocks.
NARROW = {"base_channels": 4, "block_counts": (1,) * 9}


def agreement(net, tmp_path, shape=(1, 1, 32, 32, 32), **built) -> float:
    """The largest relative L2 difference over the heads, through a file."""
    rng = np.random.default_rng(1)
    with torch.no_grad():
        for key, x in net.named_parameters():  # PyTorch's own initial norm and GRN would hide their errors
            if "norm" in key or "grn" in key or "global_resp" in key:
                x.copy_(torch.from_numpy(rng.standard_normal(x.shape, np.float32) * 0.3 + (x.mean().item())))
    torch.save(net.state_dict(), tmp_path / "net.pt")
    config, params = from_torch(tmp_path / "net.pt", **built)
    x = rng.standard_normal(shape, np.float32)
    with torch.no_grad():
        theirs = net(torch.from_numpy(x))
    ours = jax.jit(MedNeXt(config).apply)({"params": params}, x.transpose(0, 2, 3, 4, 1))
    theirs = list(theirs) if isinstance(theirs, list | tuple) else [theirs]
    ours = list(ours) if isinstance(ours, list | tuple) else [ours]
    assert len(theirs) == len(ours) == (5 if config.deep_supervision else 1)
    worst = 0.0
    for a, b in zip(theirs, ours, strict=True):
        a, b = a.numpy().astype(np.float64), np.asarray(b, np.float64).transpose(0, 4, 1, 2, 3)
        worst = max(worst, float(np.linalg.norm(a - b) / np.linalg.norm(a)))
    return worst


def torch_net(variant: str, kernel: int, heads: bool, **fields) -> torch.nn.Module:
    torch.manual_seed(0)
    config = MedNeXtConfig.variant(variant, kernel_size=kernel, deep_supervision=heads, num_classes=3, **fields)
    return reference.TorchMedNeXt(config).eval()


# As for the JAX network: about five times the float32 error of PyTorch itself.
@pytest.mark.parametrize(("name", "tolerance"), [("S_k3", 5e-5), ("B_k5_ds", 5e-5), ("L_k5", 1e-4)])
def test_the_reference_module_gives_the_original_codes_outputs(name, tolerance):
    state, x, heads = golden_case(name)
    net = reference.TorchMedNeXt(CONFIGS[name]).eval()
    net.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in state.items()}, strict=True)
    with torch.no_grad():
        outputs = net(torch.from_numpy(x))
    outputs = outputs if CONFIGS[name].deep_supervision else (outputs,)
    for ours, theirs in zip(outputs, heads, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=tolerance)


# The bound is the project's: float32 rounding of some hundred layers, measured at 1e-6 and below.
LIMIT = 1e-5


@pytest.mark.parametrize(("variant", "kernel", "heads"), SMALL)
def test_mic_networks(tmp_path, variant, kernel, heads):
    assert agreement(torch_net(variant, kernel, heads, **NARROW), tmp_path) < LIMIT


@pytest.mark.parametrize(
    "fields",
    [
        {"grn": True},
        {"norm": "layer"},
        {"grn": True, "grn_down": "all"},
        {"residual": False, "residual_resampling": False},
    ],
    ids=["GRN", "layer norm", "GRN everywhere", "no residuals"],
)
def test_mic_options(tmp_path, fields):
    net = torch_net("B", 3, True, **NARROW, **fields)
    built = {"norm": fields.get("norm", "group"), "residual": fields.get("residual", True)}
    assert agreement(net, tmp_path, **built) < LIMIT


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "kernel", "heads"), SIZES)
def test_every_published_network_at_its_full_width(tmp_path, variant, kernel, heads):
    net = torch_net(variant, kernel, heads)
    assert agreement(net, tmp_path) < LIMIT
    loads_back_strictly(net, tmp_path)


@pytest.mark.parametrize("variant", ["S", "B"])
def test_the_installed_monai_networks(tmp_path, variant):
    mednext = pytest.importorskip("monai.networks.nets.mednext")
    torch.manual_seed(0)
    ratios = {"S": (2, 2, 2, 2), "B": (2, 3, 4, 4)}[variant]
    net = mednext.MedNeXt(
        init_filters=4,
        blocks_down=(1, 2, 1, 1),
        blocks_bottleneck=1,
        blocks_up=(1, 1, 2, 1),
        encoder_expansion_ratio=ratios,
        decoder_expansion_ratio=ratios[::-1],
        bottleneck_expansion_ratio=ratios[-1],
        kernel_size=3,
        deep_supervision=True,
        use_residual_connection=True,
        global_resp_norm=variant == "B",
    )
    assert agreement(net.train(), tmp_path) < LIMIT  # MONAI gives all heads only in training mode


def loads_back_strictly(net, tmp_path):
    """Saved by PyTorch, read here, written here: bit for bit and key for key what it was, taken strictly."""
    torch.save(net.state_dict(), tmp_path / "in.pt")
    config, params = from_torch(tmp_path / "in.pt")
    to_torch(tmp_path / "out.pt", config, params)
    state = torch.load(tmp_path / "out.pt", weights_only=True)
    assert list(state) == list(net.state_dict())
    assert all(torch.equal(state[key], x) for key, x in net.state_dict().items())
    net.load_state_dict(state, strict=True)


@pytest.mark.parametrize("fields", [{"deep_supervision": True}, {"grn": True}, {"norm": "layer"}])
def test_our_files_load_strictly_into_the_mic_class(tmp_path, fields):
    torch.manual_seed(0)
    config = MedNeXtConfig.variant("B", base_channels=2, kernel_size=5, **fields)
    loads_back_strictly(reference.TorchMedNeXt(config), tmp_path)
