"""A training process for the tests to kill: `python run_training.py CONFIG.json WORKDIR`."""

import json
import sys

from mednext_jax.train.config import default_config
from mednext_jax.train.loop import run

if __name__ == "__main__":
    config = default_config()
    with open(sys.argv[1]) as file:
        values = json.load(file)
    config.model.update(values.pop("model"))
    config.update(values)
    run(config, sys.argv[2])
