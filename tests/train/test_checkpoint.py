"""Checkpoints: which are kept, what comes back, and what a full or damaged disk does."""

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mednext_jax
from mednext_jax.errors import InputError, WorkError
from mednext_jax.train.checkpoint import Checkpoints
from mednext_jax.train.state import new_state

pytestmark = pytest.mark.core


def a_state(size=100):
    params = {"block": {"kernel": jnp.asarray(np.random.default_rng(0).random(size), jnp.float32)}}
    return new_state(params, optax.scale_by_adam(), average=True)


def shapes(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def test_the_latest_and_the_best_are_kept_and_come_back(tmp_path):
    checkpoints, state = Checkpoints(tmp_path, keep=2), a_state()
    scores = {1: 0.1, 2: 0.5, 3: None, 4: 0.3, 5: None, 6: None}
    for step, score in scores.items():
        checkpoints.save(step, state._replace(step=jnp.asarray(step)), {"steps": step}, score)
    checkpoints.wait()
    checkpoints.close()
    assert sorted(int(p.name) for p in tmp_path.iterdir()) == [2, 5, 6]
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.latest == 6 and checkpoints.config(2) == {"steps": 2}
    restored = checkpoints.restore(6, shapes(state))
    assert type(restored) is type(state) and int(restored.step) == 6
    jax.tree.map(np.testing.assert_array_equal, restored.params, state.params)
    checkpoints.close()


def test_a_checkpoint_with_other_shapes_or_damage_is_named(tmp_path):
    checkpoints, state = Checkpoints(tmp_path, keep=2), a_state()
    checkpoints.save(1, state, {})
    checkpoints.wait()
    with pytest.raises(InputError, match="step 1"):
        checkpoints.restore(1, shapes(a_state(50)))
    shutil.rmtree(tmp_path / "1" / "state" / "d")
    shutil.rmtree(tmp_path / "1" / "state" / "ocdbt.process_0")
    with pytest.raises(InputError, match=str(tmp_path)):
        checkpoints.restore(1, shapes(state))
    checkpoints.close()


def test_a_full_disk_ends_the_run_and_leaves_the_earlier_checkpoints(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        checkpoints, state = Checkpoints(disk / "checkpoints", keep=100), a_state(100_000)
        with pytest.raises(WorkError, match="cannot be written"):
            for step in range(1, 20):
                checkpoints.save(step, state, {})
                checkpoints.wait()
        assert step > 1
        checkpoints.close()
        checkpoints = Checkpoints(disk / "checkpoints", keep=100)
        assert checkpoints.latest == step - 1
        restored = checkpoints.restore(step - 1, shapes(state))
        jax.tree.map(np.testing.assert_array_equal, restored.params, state.params)
        checkpoints.close()
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.slow
def test_kills_at_random_moments_leave_the_last_whole_checkpoint(tmp_path):
    script = Path(__file__).with_name("save_checkpoints.py")
    environ = {**os.environ, "PYTHONPATH": str(Path(mednext_jax.__file__).parents[1])}
    moments, seen = random.Random(0), 0
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, script, tmp_path], env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        said = [process.stdout.readline()]
        time.sleep(moments.uniform(0, 0.5))
        process.kill()
        said += process.stdout.read().split("\n")
        finished = max(int(line) for line in said if line.strip().isdigit())
        checkpoints = Checkpoints(tmp_path, keep=2)
        latest = checkpoints.latest
        assert latest in (finished, finished + 1) and latest > seen  # the next may be whole and not yet be said
        seen = latest
        like = new_state({"kernel": jnp.zeros(500_000)}, optax.scale_by_adam(), average=False)
        assert float(checkpoints.restore(latest, shapes(like)).params["kernel"].min()) == latest
        assert checkpoints.config(latest) == {"steps": latest}
        checkpoints.close()
