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
    assert [(scan.id, scan.subject) for scan in bids_scans(root)] == [
        ("sub-01_ses-1", "sub-01"),
        ("sub-01_ses-2_run-1", "sub-01"),
        ("sub-01_ses-2_run-2", "sub-01"),
        ("sub-02", "sub-02"),
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
    assert [(problem.what, problem.file.rsplit("/", 1)[1]) for problem in dataset.problems] == [
        ("A scan has several label maps.", "sub-01_ses-2_run-1_T2w.nii"),
        ("A scan has no label map.", "sub-01_ses-2_run-2_T2w.nii"),
    ]
    assert dataset.labels == {"background": 0, "pvs": 1} and dataset.channel_names == ("T2w",)
    assert dataset.participants["sub-01_ses-1"]["site"] == "A" and dataset.subjects["sub-01_ses-1"] == "sub-01"


def test_masks_that_predict_wrote_are_label_maps_and_the_clusters_beside_them_are_none(tree):
    start = "sub-02/anat/sub-02_space-orig"
    labels = tree([f"{start}_label-PVS_mask.nii.gz", f"{start}_seg-PVS_dseg.nii.gz"], "predicted")
    data = read_bids(tree(SCANS[:1]), labels)
    assert [case.label.name for case in data.cases] == ["sub-02_space-orig_label-PVS_mask.nii.gz"]
    assert not data.problems


def test_several_contrasts_are_channels(tree):
    root = tree(("sub-01/anat/sub-01_T1w.nii.gz", "sub-02/anat/sub-02_T1w.nii.gz", "sub-02/anat/sub-02_T2w.nii.gz"))
    labels = tree(("sub-01_mask.nii.gz", "sub-02_mask.nii.gz"), "labels")
    dataset = read_bids(root, labels, "T1w,T2w")
    assert dataset.channel_names == ("T1w", "T2w")
    (case,) = dataset.cases
    assert case.id == "sub-02" and [path.name for path in case.images] == ["sub-02_T1w.nii.gz", "sub-02_T2w.nii.gz"]
    (problem,) = dataset.problems
    assert problem.what == "A case does not have every channel." and problem.found == "sub-01_T1w.nii.gz"


def test_links_hidden_files_and_endings_in_any_letters(tree):
    store = tree(("sub-1/anat/sub-1_T2w.NII.GZ", "sub-1/anat/._sub-1_T2w.NII.GZ"), "store")
    marked = tree(("sub-1/sub-1_label-pvs_mask.nii.gz", "sub-1/._sub-1_label-pvs_mask.nii.gz"), "marked")
    root, labels = tree((), "bids"), tree((), "labels")
    for folder, target in ((root, store), (labels, marked)):
        folder.mkdir()
        (folder / "sub-1").symlink_to(target / "sub-1")
    (marked / "sub-1" / "sub-1_label-pvs_mask.mgz").touch()
    dataset = read_bids(root, labels)
    assert [(case.id, case.label.name) for case in dataset.cases] == [("sub-1", "sub-1_label-pvs_mask.nii.gz")]
    assert [(problem.severity, problem.found) for problem in dataset.problems] == [("W", "sub-1_label-pvs_mask.mgz")]


def test_participants_without_the_prefix_are_found(tree):
    root, labels = tree(SCANS[:1]), tree(("sub-02/sub-02_dseg.nii.gz",), "labels")
    (root / "participants.tsv").write_text("participant_id\tsite\n02\tA\n")
    dataset = read_bids(root, labels)
    assert dataset.participants["sub-02"]["site"] == "A" and not dataset.problems
    (root / "participants.tsv").write_text("participant_id\tsite\nP2\tA\n")
    dataset = read_bids(root, labels)
    assert dataset.participants == {"sub-02": {}}
    assert [problem.what for problem in dataset.problems] == ["No case is in the participants table."]


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
