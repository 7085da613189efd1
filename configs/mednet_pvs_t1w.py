"""MedNet-PVS, T1w: as for T2w, on 40 scans of seven studies with PVS in white matter and basal ganglia.

Prepare with `--spacing 0.8 --splits stratified:site` for the paper's five folds, or `--splits loso:site` for
leave-one-site-out, then train each fold (Low et al. 2025, arXiv 2508.20256).
"""

from ml_collections import ConfigDict

from mednext_jax.train.configuration import default_config


def get_config() -> ConfigDict:
    # The same trainer as for T2w, nnUNetTrainerV2_MedNeXt_L_kernel5_lr_3e_4_500epochs: configs/mednet_pvs_t2w.py.
    c = default_config()
    c.augment.policy = "moreDA"
    c.model.dtype = "bfloat16"
    c.model.remat = "dw"
    return c
