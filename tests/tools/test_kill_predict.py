"""Runs that are killed at random moments end as one that was not; the comparison sees what differs."""

from __future__ import annotations

import json
import shutil

import pytest

from tools.kill_predict import differences, kill_and_continue

pytestmark = pytest.mark.core


def test_the_comparison_sees_all_but_times(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    (one / "records").mkdir(parents=True)
    (one / "a_mask.nii.gz").write_bytes(b"voxels")
    (one / "volumes.tsv").write_text("scan\tcount\tvolume_mm3\tseconds\tflags\na\t1\t2.0\t3.0\tn/a\n")
    (one / "predict.log").write_text("then\n")
    state = {"bytes": 6, "mtime_ns": 5, "sha256": "0"}
    record = {"case": "a", "row": {"count": 1, "seconds": 3.0}, "outputs": {"a_mask.nii.gz": state}}
    (one / "records" / "a.json").write_text(json.dumps(record))
    shutil.copytree(one, other)
    record["row"]["seconds"], state["mtime_ns"] = 4.0, 6
    (other / "records" / "a.json").write_text(json.dumps(record))
    (other / "volumes.tsv").write_text((one / "volumes.tsv").read_text().replace("3.0", "4.0"))
    (other / "predict.log").write_text("now\n")
    assert differences(one, other) == []
    state["sha256"] = "1"
    (other / "records" / "a.json").write_text(json.dumps(record))
    (other / "volumes.tsv").write_text((one / "volumes.tsv").read_text().replace("2.0", "2.5"))
    (other / "a_mask.nii.gz").unlink()
    (other / ".predict").mkdir()
    (other / "more.txt").write_text("")
    assert differences(one, other) == [".predict", "a_mask.nii.gz", "more.txt", "records/a.json", "volumes.tsv"]


@pytest.mark.slow
def test_fifty_kills_leave_what_an_undisturbed_run_leaves(tmp_path):
    """The default suite's: test_a_killed_run_continues_and_its_remains_go."""
    killed = kill_and_continue(tmp_path, kills=50, scans=12)
    assert killed.differing == []
    assert {done for _, done in killed.moments} >= {0} and any(0 < done < 12 for _, done in killed.moments)
