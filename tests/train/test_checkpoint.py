"""Checkpoints: which are kept, what comes back, and what a full or damaged disk does."""

import json
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
from mednext_jax.train.checkpoint import Checkpoints, leaf_hashes
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
    assert checkpoints.steps[0] == 6 and checkpoints.config(2) == {"steps": 2}
    checkpoints.save(7, state, {})
    checkpoints.wait()
    assert checkpoints.steps == [7, 6, 2]  # the best is still known
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


def two_checkpoints(folder):
    """Steps 1 and 2, whose states differ; returns them."""
    checkpoints = Checkpoints(folder, keep=5)
    states = {step: a_state()._replace(step=jnp.asarray(step, jnp.int32)) for step in (1, 2)}
    for step, score in ((1, None), (2, 0.5)):
        checkpoints.save(step, states[step], {"seed": 7}, score)
    checkpoints.wait()
    checkpoints.close()
    return states


def damage(folder, kind):
    if kind == "values":  # zstd frames have no checksum here: only the hash of the leaf tells
        hashes = folder / "hashes" / "metadata"
        text = json.loads(hashes.read_text())
        text["leaves"][".params['block']['kernel']"] = "0" * 16
        hashes.write_text(json.dumps(text))
    elif kind == "configuration":
        (folder / "config" / "metadata").write_text('{"seed": 8}')
    elif kind == "another step":
        shutil.rmtree(folder)
        shutil.copytree(folder.with_name("1"), folder)
    elif kind == "data":
        shutil.rmtree(folder / "state" / "d")
        shutil.rmtree(folder / "state" / "ocdbt.process_0")
    elif kind == "score":
        (folder / "metrics" / "metrics").write_text('{"scorf": 0.5}')
    else:
        path = folder / kind
        path.write_bytes(b"[" * 100_000)


@pytest.mark.parametrize(
    "kind",
    [
        *("values", "configuration", "another step", "data", "_CHECKPOINT_METADATA", "metrics/metrics", "score"),
        *("state/_METADATA", "state/manifest.ocdbt", "config/metadata", "hashes/metadata"),
    ],
)
def test_a_damaged_newest_checkpoint_is_set_aside_for_the_one_before(tmp_path, capsys, kind):
    states = two_checkpoints(tmp_path)
    damage(tmp_path / "2", kind)
    checkpoints, seen = Checkpoints(tmp_path, keep=5), []
    restored = checkpoints.restore_newest(shapes(states[1]), seen.append)
    jax.tree.map(np.testing.assert_array_equal, restored, states[1])
    assert seen[-1] == {"seed": 7} and checkpoints.steps == [1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2.damaged"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("The checkpoint of step 2 is damaged and set aside")
    checkpoints.save(2, states[2], {"seed": 7})
    checkpoints.wait()
    checkpoints.close()
    assert (tmp_path / "2").is_dir()


def test_a_description_that_orbax_cannot_take_is_damage(tmp_path):
    states = two_checkpoints(tmp_path)
    path = tmp_path / "2" / "_CHECKPOINT_METADATA"
    path.write_text(path.read_text().replace('"custom_metadata": {}', '"custom_metadata": 5'))
    checkpoints = Checkpoints(tmp_path, keep=5)
    assert int(checkpoints.restore_newest(shapes(states[1]), lambda _: None).step) == 1
    checkpoints.close()


def test_where_no_checkpoint_is_sound_the_run_does_not_begin_again(tmp_path):
    states = two_checkpoints(tmp_path)
    for step in (1, 2):
        damage(tmp_path / str(step), "values")
    checkpoints = Checkpoints(tmp_path, keep=5)
    with pytest.raises(InputError, match="No checkpoint of this run is sound"):
        checkpoints.restore_newest(shapes(states[1]), lambda _: None)
    assert checkpoints.steps == [2, 1]  # nothing was moved
    checkpoints.close()
    for step in (1, 2):
        damage(tmp_path / str(step), "_CHECKPOINT_METADATA")
    checkpoints = Checkpoints(tmp_path, keep=5)
    with pytest.raises(InputError, match="No checkpoint of this run is sound"):
        checkpoints.restore_newest(shapes(states[1]), lambda _: None)
    checkpoints.close()


def test_checkpoints_without_hashes_are_read(tmp_path):
    """As version 0.1.0 wrote them."""
    states = two_checkpoints(tmp_path)
    shutil.rmtree(tmp_path / "2" / "hashes")
    checkpoints = Checkpoints(tmp_path, keep=5)
    assert int(checkpoints.restore_newest(shapes(states[1]), lambda _: None).step) == 2
    checkpoints.close()
    empty = Checkpoints(tmp_path / "empty", keep=5)
    assert empty.restore_newest(shapes(states[1]), lambda _: None) is None
    empty.close()


def test_a_hash_sees_one_bit_and_places():
    values = np.random.default_rng(1).random((3, 5)).astype(np.float32)
    flipped = values.copy()
    flipped.view(np.uint32)[1, 2] ^= 1
    exchanged = values[:, [1, 0, 2, 3, 4]]
    found = [leaf_hashes({"w": jnp.asarray(x)})["['w']"] for x in (values, values.copy(), flipped, exchanged)]
    assert found[0] == found[1] and len(set(found)) == 3
    assert leaf_hashes({"n": jnp.asarray(1, jnp.int32)}) != leaf_hashes({"n": jnp.asarray(2, jnp.int32)})


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
        assert checkpoints.steps[0] == step - 1
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
        latest = checkpoints.steps[0]
        assert latest in (finished, finished + 1) and latest > seen  # the next may be whole and not yet be said
        seen = latest
        like = new_state({"kernel": jnp.zeros(500_000)}, optax.scale_by_adam(), average=False)
        assert float(checkpoints.restore(latest, shapes(like)).params["kernel"].min()) == latest
        assert checkpoints.config(latest) == {"steps": latest}
        checkpoints.close()
