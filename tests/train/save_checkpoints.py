"""Saves one checkpoint after another until it is killed: `python save_checkpoints.py FOLDER`; says when it begins."""

import itertools
import sys
from pathlib import Path

import jax.numpy as jnp
import optax

from mednext_jax.train.checkpoint import Checkpoints
from mednext_jax.train.state import new_state

if __name__ == "__main__":
    checkpoints = Checkpoints(Path(sys.argv[1]), keep=2)
    state = new_state({"kernel": jnp.zeros(500_000)}, optax.scale_by_adam(), average=False)
    for step in itertools.count(max(checkpoints.steps, default=0) + 1):
        filled = state._replace(params={"kernel": jnp.full(500_000, step, jnp.float32)})
        checkpoints.save(step, filled, {"steps": step})
        checkpoints.wait()
        print(step, flush=True)
