"""A model without any label: MedNeXt-S trained on patches that are made from label maps while it trains.

`--config without_labels:small` is the network of the model in the package, small enough for a CPU.
"""

from ml_collections import ConfigDict

from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.train.configuration import architecture, default_config


def get_config(size: str = "S") -> ConfigDict:
    c = default_config()
    c.generator.enabled = True
    c.fold = "all"  # every simulated scan is for validation
    c.loss.batch_dice = True  # a patch without any PVS would be all or nothing
    c.optimiser.ema = 0.999
    c.optimiser.schedule = "cosine"
    c.optimiser.warmup_steps = 100
    c.augment.mirror_axes = (2,)  # left and right: what the generator exchanges
    if size == "small":
        c.model = architecture(
            MedNeXtConfig(base_channels=8, expansion_ratios=(2,) * 9, block_counts=(1,) * 9, deep_supervision=True)
        )
        c.patch_size = (48, 48, 48)
        c.generator.extraction = 1.0
        c.generator.families = (0.4, 0.35, 0.15, 0.1)  # a small network does not learn every contrast
        c.optimiser.learning_rate = 3e-3
        c.steps, c.steps_per_epoch, c.validation_steps = 6500, 500, 16
    else:
        c.model = architecture(MedNeXtConfig.variant("S", kernel_size=3, deep_supervision=True))
        c.optimiser.learning_rate = 1e-3
        c.steps = 100_000
        c.scan_validation_epochs = 40
    return c
