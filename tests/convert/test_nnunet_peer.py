"""nnU-Net v2's own predictor and ours, on the same scan with the same weights, through the files that we write."""

from __future__ import annotations

import functools
import importlib
import itertools
import sys
import types

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.convert.convert import convert
from mednext_jax.inference.predictor import Predictor
from mednext_jax.inference.tiles import tile_starts
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.weights.directory import save_model
from mednext_jax.weights.names import from_torch_names
from mednext_jax.weights.recipe import Recipe
from tests.oracles import gaussian_weights

torch = pytest.importorskip("torch")
pytest.importorskip("nnunetv2")
reference = importlib.import_module("tools.torch_reference")  # it imports torch

pytestmark = pytest.mark.slow

CONFIG = MedNeXtConfig(base_channels=4, block_counts=(1,) * 9, num_classes=2)
SPREAD = 2.0  # standard deviation of the logits' difference
RECIPE = Recipe(patch_size=(32, 32, 32), spacing=(1.0, 1.0, 1.0), orientation=None)


@pytest.fixture(scope="module")
def scan():
    """Smooth random structures in a frame of zeros, (x, y, z)."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    volume = np.zeros((60, 52, 47), np.float32)
    volume[4:-5, 3:-2, 2:-4] = 100 + 400 * gaussian_filter(rng.standard_normal((51, 47, 41)), 1.5)
    return nib.Nifti1Image(volume, np.eye(4))


@pytest.fixture(scope="module")
def model(tmp_path_factory, scan):
    """Random weights whose output depends on the scan, with a few per cent of foreground."""
    torch.manual_seed(0)
    net = reference.TorchMedNeXt(CONFIG).eval()
    with torch.no_grad():
        for key, x in net.named_parameters():
            if key.endswith("conv3.weight"):
                x *= 4
        volume = scan.get_fdata(dtype=np.float32)[4:-5, 3:-2, 2:-4]
        patch = ((volume - volume.mean()) / volume.std())[8:40, 8:40, 4:36].transpose(2, 1, 0).copy()
        x = torch.from_numpy(patch)[None, None]
        flips = [axes for n in range(4) for axes in itertools.combinations((2, 3, 4), n)]
        logits = torch.stack([net(x.flip(axes)).flip(axes) for axes in flips]).mean(0)[0]
        difference = (logits[1] - logits[0]).flatten()
        scale = SPREAD / difference.std()
        net.out_0.conv_out.weight *= scale
        net.out_0.conv_out.bias *= scale
        net.out_0.conv_out.bias[1] -= scale * difference.kthvalue(int(0.95 * difference.numel())).values
    params = from_torch_names(CONFIG, {key: x.numpy() for key, x in net.state_dict().items()})
    return save_model(tmp_path_factory.mktemp("peer") / "model", CONFIG, params, RECIPE)


def theirs(folder, scan, monkeypatch, *, precise: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mask and foreground probability, (z, y, x), of nnUNetPredictor as `nnUNetv2_predict` sets it up."""

    class MedNeXt(reference.TorchMedNeXt):
        """Our PyTorch module under the name and with the arguments of MIC-DKFZ's class."""

        def __init__(self, in_channels, n_channels, n_classes, exp_r, kernel_size, enc_kernel_size, dec_kernel_size,
                     do_res, do_res_up_down, block_counts, norm_type, grn, deep_supervision):  # fmt: skip
            super().__init__(
                MedNeXtConfig(
                    in_channels=in_channels,
                    base_channels=n_channels,
                    num_classes=n_classes,
                    expansion_ratios=exp_r,
                    encoder_kernel_size=enc_kernel_size,
                    decoder_kernel_size=dec_kernel_size,
                    residual=do_res,
                    residual_resampling=do_res_up_down,
                    block_counts=block_counts,
                    norm=norm_type,
                    grn=grn,
                    deep_supervision=deep_supervision,
                )
            )

    path = ["nnunet_mednext", "network_architecture", "mednextv1", "MedNextV1"]
    for depth in range(1, len(path) + 1):
        name = ".".join(path[:depth])
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules[".".join(path)].MedNeXt = MedNeXt  # type: ignore[attr-defined]

    from nnunetv2.inference import predict_from_raw_data as tool

    # nnU-Net imports every trainer that it has before it looks into nnUNet_extTrainer, and some need a torchvision
    # that fits torch to the build; the trainer that we wrote is found by its file instead
    monkeypatch.syspath_prepend(folder / "trainer")
    monkeypatch.setattr(
        tool, "recursive_find_trainer_class_by_name", lambda name: getattr(importlib.import_module(name), name)
    )
    if precise:
        monkeypatch.setattr(torch, "half", torch.float32)
        monkeypatch.setattr(tool, "compute_gaussian", functools.partial(tool.compute_gaussian, dtype=torch.float32))
    predictor = tool.nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), use_folds=(0,))
    image = scan.get_fdata(dtype=np.float32).transpose(2, 1, 0)[None]
    mask, probability = predictor.predict_single_npy_array(image, {"spacing": [1.0, 1.0, 1.0]}, None, None, True)
    return mask, probability[1]


@pytest.fixture(scope="module")
def ours(model, scan):
    """Mask and foreground probability, (z, y, x)."""
    result = Predictor(model, background="compute")(scan)
    return tuple(np.asarray(image.dataobj).transpose(2, 1, 0) for image in (result.mask, result.probability))


def test_masks_and_probabilities_agree(model, ours, scan, tmp_path, monkeypatch):
    convert(model, tmp_path / "v2", to="nnunet-v2")
    mask, probability = theirs(tmp_path / "v2", scan, monkeypatch, precise=False)
    assert 0.005 < mask.mean() < 0.3  # there is something to agree on
    assert (ours[0] == mask).mean() >= 0.9999
    error = np.abs(ours[1] - probability)
    weight = summed_weights(scan)
    # nnU-Net sums weights (10 at a tile's centre) and weighted logits in float16. Where the sum is a normal float16
    # that costs some 5e-4 of a logit's size; where only corners of tiles reach, one or several, it has fewer bits
    # than float16's eleven, down to none: 0.14 here.
    assert error[10 * weight >= np.finfo(np.float16).tiny].max() <= 1e-3
    assert (error > 1e-3).mean() < 0.01


def test_what_remains_is_their_float16(model, ours, scan, tmp_path, monkeypatch):
    convert(model, tmp_path / "v2", to="nnunet-v2")
    mask, probability = theirs(tmp_path / "v2", scan, monkeypatch, precise=True)
    assert np.array_equal(ours[0], mask)
    assert np.abs(ours[1] - probability).max() <= 1e-5  # float32 rounding; measured 9e-7


def summed_weights(scan) -> np.ndarray:
    """The tiles' Gaussian weights summed, 1 at a tile's centre; 0 outside the scan's non-zero box; (z, y, x)."""
    volume = np.asarray(scan.dataobj).transpose(2, 1, 0)
    box = tuple(slice(i.min(), i.max() + 1) for i in np.nonzero(volume))
    weight = np.zeros(volume.shape)
    for start in tile_starts(volume[box].shape, RECIPE.patch_size, 0.5):
        tile = tuple(slice(b.start + s, b.start + s + p) for b, s, p in zip(box, start, RECIPE.patch_size, strict=True))
        weight[tile] += gaussian_weights(RECIPE.patch_size)
    return weight
