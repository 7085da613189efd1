"""Tables that survive interruptions, and the picture of a run."""

import math

import pytest

from mednext_jax.train.log import EPOCH_COLUMNS, Progress, Table, Trace
from mednext_jax.train.picture import draw_progress

pytestmark = pytest.mark.core


def test_a_table_forgets_what_comes_after_the_step_it_is_opened_at(tmp_path):
    path = tmp_path / "steps.csv"
    table = Table(path, ("step", "loss"), 0)
    for step in range(1, 6):
        table.add({"step": step, "loss": step / 3})
    table.close()
    with path.open("a") as file:
        file.write("6,0.")  # cut off by a kill, and still a number
        file.write("\n7")  # cut off before the second column
    table = Table(path, ("step", "loss"), 3)
    assert table.rows == [{"step": s, "loss": s / 3} for s in (1, 2, 3)]  # the same floats
    table.add({"step": 4, "loss": math.nan})
    table.close()
    assert path.read_text().splitlines() == ["step,loss", f"1,{1 / 3!r}", f"2,{2 / 3!r}", "3,1", "4,nan"]


@pytest.fixture
def row():
    return {**dict.fromkeys(EPOCH_COLUMNS, 0.5), "step": 250, "epoch": 1, "seconds": 7000, "dice": 0.25}


def test_progress_is_a_line_an_epoch_where_there_is_no_terminal(row, capsys):
    progress = Progress(0, 1000, 250)
    progress.step(1, 0.5, 0.0)
    progress.epoch(row)
    progress.close()
    line = capsys.readouterr().err.strip()
    assert "\n" not in line
    for words in ("epoch 1/4", "Dice 0.250", "1.9 h", "ETA 5.8 h", "data wait 50%"):
        assert words in line


def test_a_trace_covers_the_steps_it_was_asked_for(tmp_path):
    trace = Trace((2, 4), tmp_path / "profile")
    for step in range(6):
        trace.before(step)
        assert trace._on == (step in (2, 3))
    trace.close()
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    never = Trace((0, 0), tmp_path / "none")
    never.before(0)
    never.close()
    assert not (tmp_path / "none").exists()


def test_the_picture_takes_values_that_are_not_numbers(tmp_path, row):
    pytest.importorskip("matplotlib")
    assert draw_progress([row, {**row, "epoch": 2, "dice": math.nan}], tmp_path / "progress.png")
    assert (tmp_path / "progress.png").read_bytes().startswith(b"\x89PNG")
