"""The tables of a cohort's parts as one: by the last part, by `gather`, and equal to those of an undivided run."""

from __future__ import annotations

import json

import pytest

from mednext_jax import main as command_line
from mednext_jax.errors import InputError, Problem, WorkError
from mednext_jax.inference.cohort_tables import failed_text, read_failed, read_volumes, volumes_text
from mednext_jax.inference.failures import Failure
from mednext_jax.inference.gather import gather
from mednext_jax.inference.predict import predict
from mednext_jax.inference.run_record import lock_path
from mednext_jax.io.lock import locked

pytestmark = pytest.mark.core

MERGED = ("volumes.tsv", "pvs.tsv", "pvs.json", "scans.json", "failed.tsv")


@pytest.fixture(scope="module")
def scans(save_scan, tmp_path_factory):
    """Three scans, of which one cannot be read."""
    folder = tmp_path_factory.mktemp("scans")
    for i in range(4):
        save_scan(folder / f"case{i}.nii.gz", seed=i)
    whole = (folder / "case1.nii.gz").read_bytes()
    (folder / "case1.nii.gz").write_bytes(whole[:-200])
    return folder


def without_seconds(path):
    return [row | {"seconds": 0} for row in read_volumes(path).values()]


def test_the_last_part_merges_what_an_undivided_run_writes(models, scans, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    with pytest.raises(WorkError, match="damaged"):
        predict(scans, whole, models[0], tta=False)
    predict(scans, parts, models[0], tta=False, part=(3, 5))
    predict(scans, parts, models[0], tta=False, part=(5, 5))  # has no scan
    predict(scans, parts, models[0], tta=False, part=(1, 5))
    with pytest.raises(InputError, match="damaged"):  # the only scan of its part
        predict(scans, parts, models[0], tta=False, part=(2, 5))
    assert not any((parts / name).exists() for name in MERGED if name != "pvs.json")
    gathered = gather(parts)
    assert [row["scan"] for row in gathered.rows] == ["case0", "case2"] and gathered.missing == (4,)
    predict(scans, parts, models[0], tta=False, part=(4, 5))
    assert without_seconds(parts / "volumes.tsv") == without_seconds(whole / "volumes.tsv")
    for name in MERGED[1:]:
        assert (parts / name).read_text() == (whole / name).read_text(), name
    (failed,) = read_failed(parts / "failed.tsv")
    assert (failed["scan"], failed["stage"]) == ("case1", "read") and failed["file"].endswith("case1.nii.gz")


def test_a_scan_that_is_mended_moves_no_other_into_another_part(models, save_scan, tmp_path):
    folder, out = tmp_path / "scans", tmp_path / "out"
    for i in range(4):
        save_scan(folder / f"case{i}.nii.gz", seed=i)
    whole = (folder / "case1.nii.gz").read_bytes()
    (folder / "case1.nii.gz").write_bytes(b"")
    predict(folder, out, models[0], tta=False, part=(1, 2))
    with pytest.raises(WorkError, match="is empty"):  # told by its own part
        predict(folder, out, models[0], tta=False, part=(2, 2))
    assert [row["scan"] for row in read_failed(out / "failed.tsv")] == ["case1"]
    (folder / "case1.nii.gz").write_bytes(whole)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")}
    for k in (1, 2):
        predict(folder, out, models[0], tta=False, part=(k, 2))
    assert [row["scan"] for row in read_volumes(out / "volumes.tsv").values()] == [f"case{i}" for i in range(4)]
    assert before == {path: path.stat().st_mtime_ns for path in before} and not (out / "failed.tsv").exists()


def test_the_command_names_parts_that_are_missing_or_at_work(models, scans, tmp_path, capsys):
    out = tmp_path / "out"
    predict(scans, out, models[0], tta=False, part=(1, 2))
    capsys.readouterr()
    with locked(lock_path(out, (1, 2)), "busy"):
        assert command_line.main(["gather", str(out)]) == 0
    said = capsys.readouterr().out
    assert "2 scans, 0 failures" in said and "not begun: 2" in said and "at work still: 1" in said
    assert [s["case"] for s in json.loads((out / "scans.json").read_text())["scans"]] == ["case0", "case2"]
    assert not list(out.rglob(".*"))


def test_a_folder_without_parts_is_refused_and_stays_as_it_is(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match="no parts"):
            gather(folder)
    for part in ("1-of-2", "1-of-3"):
        (tmp_path / f"prediction_part-{part}.json").write_text("{}")
    with pytest.raises(InputError, match="parts of 2, parts of 3"):
        gather(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_failures_are_cells_of_a_table_whatever_they_say(tmp_path):
    problem = Problem("It\tis\nodd.", "=1+2\x1b", expected="this", found="that")
    failure = Failure("-a", "segment", (problem, Problem("Twice.")), by_input=False)
    (tmp_path / "failed.tsv").write_text(failed_text([failure]))
    first, second = read_failed(tmp_path / "failed.tsv")
    assert first == {
        "scan": "'-a",
        "file": "'=1+2\\x1b",
        "stage": "segment",
        "message": "It\\tis\\nodd.; expected: this; found: that",
        "hint": "n/a",
    }
    assert (second["file"], second["message"]) == ("n/a", "Twice.")
    (tmp_path / "failed.tsv").write_text("mine\n")
    with pytest.raises(InputError, match="not understood"):
        read_failed(tmp_path / "failed.tsv")


def test_a_table_of_the_first_release_has_no_flags(tmp_path):
    row = {"scan": "a", "count": 1, "volume_mm3": 2.0, "seconds": 3.0, "flags": "edge; contrast"}
    (tmp_path / "new.tsv").write_text(volumes_text([row]))
    (tmp_path / "old.tsv").write_text("scan\tcount\tvolume_mm3\tseconds\na\t1\t2.0\t3.0\n")
    assert read_volumes(tmp_path / "new.tsv") == {"a": row}
    assert read_volumes(tmp_path / "old.tsv") == {"a": row | {"flags": ""}}
