"""Every part that a machine without a TPU can run runs, and a time is that of one run."""

from __future__ import annotations

import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tools import tpu_on_chip

pytestmark = pytest.mark.core


def test_a_time_is_of_one_run_and_a_state_goes_on():
    def slow(x: np.ndarray) -> np.ndarray:
        time.sleep(0.02)
        return x + 1

    seen = []

    def step(state: jax.Array, add: jax.Array) -> tuple[jax.Array, jax.Array]:
        state = jax.pure_callback(slow, jax.ShapeDtypeStruct((), jnp.float32), state) + 0 * add
        jax.debug.callback(lambda value: seen.append(float(value)), state)
        return state, state

    compiled = jax.jit(step, donate_argnums=0).lower(jnp.zeros(()), jnp.zeros(())).compile()
    seconds = tpu_on_chip.measured_seconds(compiled, (jnp.zeros(()), jnp.zeros(())), repeats=2)
    assert seconds >= 0.02
    jax.effects_barrier()
    assert seen == [1, 2, 3, 4, 5, 6, 7]  # one run before, three rounds of two


def test_look_ups_run_here_without_a_schedule(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    found = tmp_path / "here.json"
    assert tpu_on_chip.main(["--parts", "look-ups", "--extent", "8", "--repeats", "1", "--json", str(found)]) == 0
    (row,) = json.loads(found.read_text())["programs"]
    assert row["schedule_seconds"] is None and row["measured_seconds"] > 0
    assert "| look-ups of a turned patch | - |" in capsys.readouterr().out


@pytest.mark.slow
def test_blocks_and_step_run_here_as_xla(capsys: pytest.CaptureFixture[str]):
    small = ["--parts", "blocks,look-ups,step", "--variant", "S/3", "--extent", "16", "--repeats", "1"]
    assert tpu_on_chip.main(["--form", "xla", *small]) == 0
    table = capsys.readouterr().out
    assert table.count(", train |") == 13 and "training step of S/3" in table


def test_what_needs_a_tpu_says_so(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        tpu_on_chip.main(["--parts", "blocks"])
    assert "--form xla" in capsys.readouterr().err
