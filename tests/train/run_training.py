"""A training process for the tests to stop and kill: `python run_training.py CONFIG.json WORKDIR`."""

import json
import sys

from mednext_jax.main import main
from mednext_jax.train.configuration import default_config


def get_config(path):
    """The configuration whose values `path` holds."""
    config = default_config()
    with open(path) as file:
        values = json.load(file)
    config.model.update(values.pop("model"))
    config.update(values)
    return config


if __name__ == "__main__":
    sys.exit(main(["train", f"--config={__file__}:{sys.argv[1]}", f"--workdir={sys.argv[2]}"]))
