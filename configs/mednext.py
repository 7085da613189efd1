"""Any published MedNeXt on nnU-Net's pipeline: `--config mednext:VARIANT/KERNEL`, for example S/3 or L/5."""

from ml_collections import ConfigDict

from mednext_jax.errors import InputError
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.train.configuration import architecture, default_config


def get_config(argument: str = "S/3") -> ConfigDict:
    variant, _, kernel = argument.partition("/")
    if not kernel.isdigit():
        raise InputError("The argument of the recipe mednext is not valid.", expected="S/3, L/5, ...", found=argument)
    c = default_config()
    c.model = architecture(MedNeXtConfig.variant(variant, kernel_size=int(kernel), deep_supervision=True))
    # MIC-DKFZ's trainers: AdamW at 1e-3 for every variant, 1000 epochs. For kernel 5 they also ship 1e-4, which the
    # paper used on KiTS19: --config.optimiser.learning_rate=1e-4.
    c.optimiser.learning_rate = 1e-3
    c.steps = 1000 * c.steps_per_epoch
    return c
