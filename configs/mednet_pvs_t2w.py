"""MedNet-PVS, T2w: MedNeXt-L with kernel 5 on 0.8 mm scans, white-matter PVS (Low et al. 2025, arXiv 2508.20256).

Prepare with `mednext-jax prepare DATASET --out PREPARED --spacing 0.8 --splits kfold:5`; train each fold 0 to 4.
"""

from ml_collections import ConfigDict

from mednext_jax.train.configuration import default_config


def get_config() -> ConfigDict:
    # The defaults are the paper's: network, rate, steps, loss; docs/configuration.md has the source of each. Patch and
    # batch are not published: they are what MedNeXt's own isotropic planner sets, and the authors' checkpoint holds
    # theirs.
    c = default_config()
    c.augment.policy = "moreDA"  # nnUNetTrainerV2
    # Half precision for the activations as in the paper (float16 there; bfloat16 needs no loss scaling).
    c.model.dtype = "bfloat16"
    c.model.remat = "dw"  # MedNeXt-L recomputes its blocks, too
    return c
