"""Participants, sessions and filter files: which names they take, and what is no filter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mednext_jax.errors import InputError
from mednext_jax.io.bids import bids_scans
from mednext_jax.io.bids_selection import BidsSelection

pytestmark = pytest.mark.core

NAMES = (
    *("sub-01_ses-1_acq-hires_run-01_T2w", "sub-01_ses-1_run-2_T2w", "sub-01_ses-2_T2w"),
    *("sub-02_T2w", "sub-02_T1w", "sub-03_rec-norm_T2w"),
)


def taken(selection):
    return [name for name in NAMES if selection.takes(Path(f"{name}.nii.gz"), name.rpartition("_")[2])]


def write(path, **content):
    path.write_text(json.dumps(content))
    return path


def test_labels_with_and_without_their_prefix():
    assert taken(BidsSelection.of()) == list(NAMES)
    assert taken(BidsSelection.of(["02", "sub-03"])) == list(NAMES[3:])
    assert taken(BidsSelection.of(["01"], ["ses-2"])) == [NAMES[2]]


@pytest.mark.parametrize(
    ("wanted", "indices"),
    [
        ({"session": "1"}, (0, 1)),
        ({"session": ["1", "2"], "acquisition": None}, (1, 2)),
        ({"acquisition": "Query.NONE", "session": "*"}, (1, 2)),
        ({"acquisition": "Query.OPTIONAL", "session": "Query.ANY"}, (0, 1, 2)),
        ({"run": 1}, (0,)),
        ({"run": ["02"]}, (1,)),
        ({"run": [None, 2], "subject": ["01", "02"]}, (1, 2, 3)),
        ({"rec": "norm", "datatype": "anat", "extension": [".nii", ".nii.gz"], "suffix": "T2w"}, (5,)),
        ({"acquisition": ["hires", None], "session": "1"}, (0, 1)),
    ],
)
def test_a_filter_file(tmp_path, wanted, indices):
    file = write(tmp_path / "filter.json", t2w=wanted, bold={"task": "rest"})
    others = [name for name in NAMES if name.endswith("T1w")]  # another contrast is not filtered
    assert taken(BidsSelection.of(filter_file=file)) == sorted([*(NAMES[i] for i in indices), *others], key=NAMES.index)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"t2w": {"task": "rest"}}, "task"),
        ({"t2w": {"session": {"a": 1}}}, "session"),
        ({"t2w": {"datatype": "func"}}, "datatype"),
        ({"t2w": "hires"}, "no object"),
        ({"bold": {"task": "rest"}}, "only bold"),
        ({}, "empty"),
    ],
)
def test_what_is_no_filter(tmp_path, content, found):
    with pytest.raises(InputError, match=f"filter file is not understood[\\s\\S]*{found}"):
        BidsSelection.of(filter_file=write(tmp_path / "filter.json", **content))


def test_a_participant_that_is_not_there(tmp_path):
    (tmp_path / "sub-01").mkdir()
    BidsSelection.of(["sub-01"]).require_participants(tmp_path)
    with pytest.raises(InputError, match=r"no such participant[\s\S]*such as 01[\s\S]*found: +7"):
        BidsSelection.of(["01", "7"]).require_participants(tmp_path)


def test_the_scans_of_a_data_set(tmp_path):
    for name in NAMES:
        folder = tmp_path / name.split("_")[0] / "anat"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.nii.gz").touch()
    chosen = BidsSelection.of(["01"], ["1"])
    assert [scan.id for scan in bids_scans(tmp_path, "T2w", chosen)] == [
        "sub-01_ses-1_acq-hires_run-01",
        "sub-01_ses-1_run-2",
    ]
    assert [scan.suffix for scan in bids_scans(tmp_path, chosen=BidsSelection.of(["03"]))] == ["T2w"]
    with pytest.raises(InputError, match=r"No scan of the selection[\s\S]*--session-id"):
        bids_scans(tmp_path, "T2w", BidsSelection.of(["02"], ["9"]))
