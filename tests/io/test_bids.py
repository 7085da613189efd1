"""BIDS: which files are scans, which label map belongs to which."""

from __future__ import annotations

import pytest

from mednext_jax.errors import InputError
from mednext_jax.io.bids import bids_scans, is_bids, read_bids

pytestmark = pytest.mark.core

SCANS = (
    "sub-02/anat/sub-02_T2w.nii.gz",
    "sub-01/ses-1/anat/sub-01_ses-1_T2w.nii.gz",
    "sub-01/ses-2/anat/sub-01_ses-2_run-1_T2w.nii",
    "sub-01/ses-2/anat/sub-01_ses-2_run-2_T2w.nii",
)
OTHER_FILES = (
    "sub-02/anat/sub-02_T2w.json",
    "sub-02/func/sub-02_task-rest_bold.nii.gz",
    "derivatives/x/sub-02/anat/sub-02_T2w.nii.gz",
    "sub-02/anat/notes.txt",
)


@pytest.fixture
def tree(tmp_path):
    def touch(names, below="bids"):
        for name in names:
            path = tmp_path / below / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path / below

    return touch


def test_scans_with_and_without_sessions(tree):
    root = tree(SCANS + OTHER_FILES)
    assert is_bids(root) and not is_bids(root / "sub-01")
    assert [(scan.id, scan.subject, scan.session) for scan in bids_scans(root)] == [
        ("sub-01_ses-1", "sub-01", "1"),
        ("sub-01_ses-2_run-1", "sub-01", "2"),
        ("sub-01_ses-2_run-2", "sub-01", "2"),
        ("sub-02", "sub-02", None),
    ]


def test_several_contrasts_need_a_choice(tree):
    root = tree((*SCANS, "sub-02/anat/sub-02_T1w.nii.gz"))
    with pytest.raises(InputError, match="1 T1w, 4 T2w"):
        bids_scans(root)
    assert [scan.id for scan in bids_scans(root, "T1w")] == ["sub-02"]
    with pytest.raises(InputError, match="No scan was found"):
        bids_scans(root, "PDw")


def test_a_scan_that_is_there_twice(tree):
    with pytest.raises(InputError, match="there twice"):
        bids_scans(tree(("sub-02/anat/sub-02_T2w.nii.gz", "sub-02/anat/sub-02_T2w.nii")))


def test_label_maps_are_matched_by_their_entities(tree):
    root = tree(SCANS)
    labels = tree(
        (
            "sub-02/anat/sub-02_space-orig_label-PVS_mask.nii.gz",
            "sub-02/anat/sub-02_label-brain_mask.nii.gz",
            "sub-02/anat/sub-02_space-orig_label-PVS_probseg.nii.gz",
            "sub-01/sub-01_ses-1_dseg.nii.gz",
            "sub-01/sub-01_ses-2_run-1_desc-rater1_mask.nii.gz",
            "sub-01/sub-01_ses-2_run-1_desc-rater2_mask.nii.gz",
        ),
        "labels",
    )
    (root / "participants.tsv").write_text("participant_id\tsite\nsub-01\tA\n")
    dataset = read_bids(root, labels)
    assert [(case.id, case.label.name) for case in dataset.cases] == [
        ("sub-01_ses-1", "sub-01_ses-1_dseg.nii.gz"),
        ("sub-02", "sub-02_space-orig_label-PVS_mask.nii.gz"),
    ]
    assert [problem.what for problem in dataset.problems] == [
        "Scan sub-01_ses-2_run-1 has several label maps.",
        "Scan sub-01_ses-2_run-2 has no label map.",
    ]
    assert dataset.labels == {"background": 0, "pvs": 1} and dataset.channel_names == ("T2w",)
    assert dataset.participants["sub-01_ses-1"]["site"] == "A" and dataset.subjects["sub-01_ses-1"] == "sub-01"


def test_several_contrasts_are_channels(tree):
    root = tree(("sub-01/anat/sub-01_T1w.nii.gz", "sub-02/anat/sub-02_T1w.nii.gz", "sub-02/anat/sub-02_T2w.nii.gz"))
    labels = tree(("sub-01_mask.nii.gz", "sub-02_mask.nii.gz"), "labels")
    dataset = read_bids(root, labels, "T1w,T2w")
    assert dataset.channel_names == ("T1w", "T2w")
    (case,) = dataset.cases
    assert case.id == "sub-02" and [path.name for path in case.images] == ["sub-02_T1w.nii.gz", "sub-02_T2w.nii.gz"]
    assert [problem.what for problem in dataset.problems] == ["Case sub-01 does not have every channel."]


def test_the_lookup_table_names_the_labels(tree):
    root, labels = tree(SCANS[:1]), tree(("sub-02/sub-02_dseg.nii.gz",), "labels")
    table = labels / "desc-pvs_dseg.tsv"
    table.write_text("index\tname\n0\tnothing\n1\twm\n2\tbg\n")
    assert read_bids(root, labels).labels == {"background": 0, "wm": 1, "bg": 2}
    table.write_text("index\tname\none\twm\n")
    with pytest.raises(InputError, match="lookup table"):
        read_bids(root, labels)


def test_the_labels_must_be_there(tree):
    with pytest.raises(InputError, match="folder of label maps is missing"):
        read_bids(tree(SCANS), "nowhere")
