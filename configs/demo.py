"""What `mednext-jax demo` trains: a small MedNeXt that learns simulated PVS on a two-core CPU in minutes."""

from ml_collections import ConfigDict

from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.train.configuration import architecture, default_config, small_objects


def get_config() -> ConfigDict:
    c = small_objects(default_config())
    c.steps, c.steps_per_epoch, c.validation_steps = 300, 50, 4
    c.final_validation = False  # the demo scores other, held-out scans
    c.patch_size = (48, 48, 48)
    c.foreground_fraction = 1.0  # PVS are rare: at this length every patch should show some
    c.model = architecture(
        MedNeXtConfig(base_channels=8, expansion_ratios=(2,) * 9, block_counts=(1,) * 9, deep_supervision=True)
    )
    c.optimiser.learning_rate = 3e-3  # ten times the paper's, for a hundredth of its steps
    for transform in ("rotation", "scaling", "noise", "blur", "low_resolution", "inverted_gamma"):
        c.augment[transform] = 0.0  # each costs compilation; the scans are alike
    return c
