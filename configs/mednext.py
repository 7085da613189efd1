"""Any published MedNeXt on nnU-Net's pipeline: `--config=configs/mednext.py:VARIANT/KERNEL`, for example S/3 or L/5."""

from ml_collections import ConfigDict

from mednext_jax.errors import InputError
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.train.config import architecture, default_config


def get_config(argument: str = "S/3") -> ConfigDict:
    variant, _, kernel = argument.partition("/")
    if not kernel.isdigit():
        raise InputError("The argument of configs/mednext.py is not valid.", expected="S/3, L/5, ...", found=argument)
    c = default_config()
    c.model = architecture(MedNeXtConfig.variant(variant, kernel_size=int(kernel), deep_supervision=True))
    # MIC-DKFZ trains every variant with AdamW, weight decay 3e-5 and epsilon 1e-4: kernel 3 at 1e-3, kernel 5 at 1e-4,
    # both for 1000 epochs.
    c.optimiser.learning_rate = 1e-3 if int(kernel) == 3 else 1e-4
    c.steps = 1000 * c.steps_per_epoch
    return c
