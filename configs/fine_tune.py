"""A model that goes on learning from a few labelled scans: `fine_tune`, the packaged one, or `fine_tune:MODEL`.

Network, patch and first weights are the model's; rate and steps are for about five scans.
"""

from ml_collections import ConfigDict

from mednext_jax.train.configuration import architecture, default_config, small_objects
from mednext_jax.weights.directory import load_model
from mednext_jax.weights.packaged import NAME, or_packaged


def get_config(model: str = NAME) -> ConfigDict:
    start = load_model(or_packaged(model))
    c = small_objects(default_config())
    c.model = architecture(start.config)
    c.patch_size = start.recipe.patch_size
    c.init_from = model
    c.steps, c.steps_per_epoch, c.validation_steps = 1000, 100, 10
    c.foreground_fraction = 0.67  # a few scans have few PVS
    c.optimiser.learning_rate = 1e-4  # a third of what a network is trained from scratch with
    return c
