"""MedNet-PVS, T1w: as for T2w, on 40 scans of seven studies with PVS in white matter and basal ganglia.

Prepare with `--spacing 0.8 --splits stratified:site` for the paper's five folds, or `--splits loso:site` for
leave-one-site-out, then train each fold (Low et al. 2025, arXiv 2508.20256).
"""

from ml_collections import ConfigDict

from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.train.config import architecture, default_config


def get_config() -> ConfigDict:
    c = default_config()
    # The same trainer as for T2w, nnUNetTrainerV2_MedNeXt_L_kernel5_lr_3e_4_500epochs (iBrain-Lab/MedNet-PVS).
    c.model = architecture(MedNeXtConfig.variant("L", kernel_size=5, deep_supervision=True))
    c.steps_per_epoch = 250  # nnU-Net
    c.steps = 500 * c.steps_per_epoch  # 500 epochs, in the trainer's name
    c.optimiser.learning_rate = 3e-4  # in the trainer's name
    c.optimiser.weight_decay = 3e-5  # nnUNetTrainer
    c.optimiser.epsilon = 1e-4  # MedNeXt's trainers
    c.optimiser.clip_norm = 12.0  # nnUNetTrainerV2
    c.loss.deep_supervision = (16.0, 8.0, 4.0, 2.0, 1.0)  # MedNeXt's trainers
    c.foreground_fraction = 0.33  # nnUNetTrainer
    c.augment.policy = "moreDA"  # nnUNetTrainerV2
    # Not published; what MedNeXt's own isotropic planner sets. The authors' checkpoint holds theirs.
    c.patch_size, c.batch_size = (128, 128, 128), 2
    # Half precision for the activations as in the paper (float16 there; bfloat16 needs no loss scaling).
    c.model.dtype = "bfloat16"
    c.model.remat = "dw"  # MedNeXt-L recomputes its blocks, too
    return c
