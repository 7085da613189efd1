"""Tables that survive interruptions, and the picture of a run."""

import itertools
import math
import struct
import sys

import numpy as np
import pytest

from mednext_jax.train.events import Events
from mednext_jax.train.log import EPOCH_COLUMNS, Progress, Stopwatch, Table, Trace
from mednext_jax.train.picture import COLOURS, draw_case, draw_progress

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


def test_a_table_of_version_0_1_0_is_continued_under_the_new_names(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,dice,dice_average\n50,0.5,0.25\n")
    table = Table(path, ("step", "patch_dice", "patch_dice_average"), 50)
    table.close()
    assert table.rows == [{"step": 50, "patch_dice": 0.5, "patch_dice_average": 0.25}]
    assert path.read_text().splitlines()[0] == "step,patch_dice,patch_dice_average"


@pytest.mark.parametrize(
    ("content", "steps", "lines"),
    [
        (b"step,loss\n1,2\n2,\xff\xfe\n3,4\n", [1, 3], 1),
        (b"step,loss\n1,2\n2,3,4\n\x00\n3,4\n", [1, 3], 2),
        (b"step,loss\n1,2\n9,2\n1,3\n2,2\n", [1, 2], 1),
        (b"step,l\xffss\n1,2\n", [], 2),
        (b"step,step\n1,2\n", [], 2),
        (b"\x00" * 1000, [], 0),
        (b"", [], 0),
        (b"nan,1\n[]", [], 1),
        (b'step,loss\n1,"' + b"x" * 200_000 + b'"\n', [], 1),
    ],
)
def test_a_damaged_table_does_not_keep_a_run_from_going_on(tmp_path, capsys, content, steps, lines):
    path = tmp_path / "steps.csv"
    path.write_bytes(content)
    table = Table(path, ("step", "loss"), 5)
    table.add({"step": 6, "loss": 1.0})
    table.close()
    assert [row["step"] for row in table.rows] == [*steps, 6]
    assert path.read_text().splitlines()[0] == "step,loss" and path.read_text().endswith("6,1\n")
    said = capsys.readouterr().err
    assert (f"{lines} damaged lines" in said) if lines else not said


@pytest.fixture
def row():
    return {**dict.fromkeys(EPOCH_COLUMNS, 0.5), "step": 250, "epoch": 1, "seconds": 7000, "patch_dice": 0.25}


def test_progress_is_a_line_an_epoch_where_there_is_no_terminal(row, capsys):
    progress = Progress(0, 1000, 250, 2)
    progress.step(1, 0.5, 0.0)
    progress.epoch(row)
    progress.close()
    line = capsys.readouterr().err.strip()
    assert "\n" not in line
    for words in (
        "epoch 1/4",
        "patch Dice 0.250 (average 0.500)",
        "4 s/step",
        "0.50 samples/s",
        "1.9 h",
        "ETA 5.8 h",
        "data wait 50%",
    ):
        assert words in line


def test_events_hold_the_finite_values_and_withdraw_what_a_killed_run_wrote(tmp_path):
    pytest.importorskip("tensorboardX")
    killed = Events(tmp_path / "events", 0)
    for step in (1, 2, 3):
        killed.add("step", {"step": step, "loss": step / 4, "gradient_norm": math.nan})
    killed.close()
    resumed = Events(tmp_path / "events", 2)
    resumed.add("step", {"step": 3, "loss": 7.0})
    resumed.add("epoch", {"step": 3, "epoch": 1, "patch_dice": 0.5})
    resumed.close()
    first, second = (list(read_events(path)) for path in sorted((tmp_path / "events").iterdir()))
    assert scalars(first) == [("step/loss", step, step / 4) for step in (1, 2, 3)]
    assert scalars(second) == [("step/loss", 3, 7.0), ("epoch/patch_dice", 3, 0.5)]
    # TensorBoard drops what earlier files hold from the step of a start on.
    assert [event.step for event in second if event.HasField("session_log")] == [3]


def test_without_tensorboardx_there_are_no_events(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    events = Events(tmp_path / "events", 0)
    events.add("step", {"step": 1, "loss": 1.0})
    events.close()
    assert not (tmp_path / "events").exists()


def read_events(path):
    """The events of a file of length, checksum, event, checksum records."""
    from tensorboardX.proto.event_pb2 import Event

    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


def scalars(events):
    return [(value.tag, event.step, value.simple_value) for event in events for value in event.summary.value]


def test_progress_is_a_bar_on_a_terminal(row, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = Progress(0, 4, 2, 8)
    progress.step(1, 0.5, 0.0)
    progress.epoch(row)
    progress.step(2, 0.25, 0.1)
    progress._bar.refresh()
    progress.close()
    bar = capsys.readouterr().err.split("\r")[-2]
    for words in ("50%", "epoch 1/2", "loss 0.2500", "patch Dice 0.250", "samples/s", "data wait 10%", "step", "ETA"):
        assert words in bar, bar


def test_the_stopwatch_tells_the_share_of_waiting(monkeypatch):
    clock = itertools.count(step=1.0)  # each look at it is a second later
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    waiting = Stopwatch()  # at 0
    for _ in range(2):
        with waiting:  # from 1 to 2, from 3 to 4
            pass
    assert waiting.inside == 2
    assert waiting.total == 5
    assert waiting.share == pytest.approx(2 / 6)
    waiting.reset()
    assert waiting.inside == 0 and waiting.total == 1


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
    assert draw_progress([row, {**row, "epoch": 2, "patch_dice": math.nan}], tmp_path / "progress.png")
    assert (tmp_path / "progress.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_of_a_case_marks_hits_false_alarms_and_misses(tmp_path):
    pytest.importorskip("matplotlib")
    image = np.random.default_rng(0).normal(size=(6, 40, 50, 2)).astype(np.float32)
    label, found = np.zeros((6, 40, 50), np.int16), np.zeros((6, 40, 50), np.uint8)
    label[4, 10:20, 10:20], found[4, 15:25, 10:20] = 1, 1
    assert draw_case(image, label, found, "a$b^{$_\udcfc", tmp_path / "pictures" / "sub-01.png")
    picture = read_picture(tmp_path / "pictures" / "sub-01.png")[..., :3]
    sizes = [np.sum(np.abs(picture - colour).max(-1) < 0.01) for colour in COLOURS.values()]
    assert min(sizes) > 1000 and max(sizes) < 1.1 * min(sizes)  # each half of a square


def read_picture(path):
    from matplotlib.image import imread

    return imread(path)
