"""The folder of a call: one name for one selection, files placed as links or copies."""

from __future__ import annotations

import json
import os

import pytest

from mednext_jax.bids.run_folder import WORK, RunFolder
from mednext_jax.errors import InputError
from mednext_jax.io.bids_selection import BidsSelection, EntityFilter

pytestmark = pytest.mark.core


def name(*arguments, **filters):
    selection = BidsSelection.of(*arguments)
    return RunFolder.of("out", BidsSelection(selection.participants, selection.sessions, filters)).name


def test_one_name_for_one_selection():
    assert name() == "all" and name(["sub-01"]) == name(["01"]) == "sub-01" and name(["01"], ["2"]) == "sub-01_ses-2"
    hires, norm = ({"acq": EntityFilter(False, False, (value,))} for value in ("hires", "norm"))
    names = [name(["01", "02"]), name(["01", "03"]), name(T2w=hires), name(T2w=norm), name(["01"], T2w=hires)]
    assert len(set(names)) == 5 and name(["02", "01"]) == names[0]
    assert name(T2w=hires) == names[2]
    assert len(name([f"{i:05d}" for i in range(9999)])) < 40


def run_in(tmp_path, **record):
    run = RunFolder(tmp_path, "sub-1")
    (run.path / "sub-1" / "anat").mkdir(parents=True)
    (run.path / "sub-1" / "anat" / "sub-1_mask.nii.gz").write_text("voxels")
    (run.path / "prediction.json").write_text(json.dumps(record))
    (run.path / "volumes.tsv").write_text("scan\n")
    (run.path / "report.html").write_text("a page of this run alone")
    return run


def test_files_are_placed_once(tmp_path):
    run = run_in(tmp_path, models=[{"sha256": "a"}])
    assert run.place() and run.place()
    placed = tmp_path / "sub-1" / "anat" / "sub-1_mask.nii.gz"
    assert os.path.samefile(placed, run.path / "sub-1" / "anat" / "sub-1_mask.nii.gz")
    assert sorted(p.name for p in tmp_path.iterdir()) == [WORK, "logs", "sub-1"]
    assert sorted(p.name for p in (tmp_path / "logs" / "sub-1").iterdir()) == ["prediction.json", "volumes.tsv"]
    fresh = run.path / "sub-1" / "anat" / "new"
    fresh.write_text("other voxels")
    os.replace(fresh, run.path / "sub-1" / "anat" / "sub-1_mask.nii.gz")
    run.place()
    assert placed.read_text() == "other voxels"


def test_a_file_system_without_links_gets_copies(tmp_path, monkeypatch):
    run = run_in(tmp_path, models=[])

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    assert run.place()
    assert (tmp_path / "sub-1" / "anat" / "sub-1_mask.nii.gz").read_text() == "voxels"


def test_a_run_that_did_nothing_and_a_record_that_is_none(tmp_path):
    assert not RunFolder(tmp_path, "all").place()
    with pytest.raises(InputError, match="not understood"):
        run_in(tmp_path).place()
