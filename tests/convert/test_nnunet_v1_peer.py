"""The MIC-DKFZ fork's own predictor on a folder that we wrote, and ours on the model it came from.

Needs the fork: pip install git+https://github.com/MIC-DKFZ/MedNeXt
"""

from __future__ import annotations

import importlib

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.convert.convert import convert
from mednext_jax.inference.predictor import Predictor
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.weights.directory import save_model
from mednext_jax.weights.names import from_torch_names
from mednext_jax.weights.recipe import Recipe

torch = pytest.importorskip("torch")
restore = pytest.importorskip("nnunet_mednext.training.model_restore")
reference = importlib.import_module("tools.torch_reference")  # it imports torch

pytestmark = pytest.mark.slow

CONFIG = MedNeXtConfig.variant("S", kernel_size=3, num_classes=2, deep_supervision=True)
RECIPE = Recipe(patch_size=(32, 32, 32), spacing=(1.0, 1.0, 1.0), orientation=None, average="softmax")
BOX = (slice(2, -2), slice(3, -3), slice(4, -4))  # of the scan that is not zero, (z, y, x)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Random weights, enlarged so that the output depends on the scan."""
    torch.manual_seed(0)
    net = reference.TorchMedNeXt(CONFIG)
    with torch.no_grad():
        for key, x in net.named_parameters():
            if key.endswith("conv3.weight"):
                x *= 3
        net.out_0.conv_out.weight *= 10
    params = from_torch_names(CONFIG, {key: x.numpy() for key, x in net.state_dict().items()})
    return save_model(tmp_path_factory.mktemp("peer") / "model", CONFIG, params, RECIPE)


def test_the_fork_predicts_from_our_folder_what_we_predict(model, tmp_path, monkeypatch):
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    volume = np.zeros((40, 44, 50), np.float32)
    shape = volume[BOX].shape
    volume[BOX] = 100 + 400 * gaussian_filter(rng.standard_normal(shape), 1.5)
    scan = tmp_path / "case_0000.nii.gz"
    nib.save(nib.Nifti1Image(volume.transpose(2, 1, 0), np.eye(4)), scan)

    convert(model, tmp_path / "v1", to="nnunet-v1")
    trainer, states = restore.load_model_and_checkpoint_files(
        str(tmp_path / "v1"), folds=[0], checkpoint_name="model_final_checkpoint"
    )
    trainer.load_checkpoint_ram(states[0], False)
    theirs = trainer.predict_preprocessed_data_return_seg_and_softmax(
        trainer.preprocess_patient([str(scan)])[0],
        do_mirroring=True,
        mirror_axes=trainer.data_aug_params["mirror_axes"],
        use_gaussian=True,
        all_in_gpu=False,
        mixed_precision=False,
    )[1][1]

    convert(tmp_path / "v1", tmp_path / "back")
    for ours in (model, tmp_path / "back/fold_0"):
        result = Predictor(ours, background="compute")(scan)
        probability = np.asarray(result.probability.dataobj).transpose(2, 1, 0)[BOX]
        mask = np.asarray(result.mask.dataobj).transpose(2, 1, 0)[BOX]
        assert 0.1 < mask.mean() < 0.9  # there is something to agree on
        assert np.abs(probability - theirs).max() <= 1e-4  # float32 rounding under enlarged logits; measured 6e-6
        assert (mask == (theirs > 0.5)).mean() >= 0.9999
