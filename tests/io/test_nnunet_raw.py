"""nnU-Net raw data sets: both versions' keys, explicit lists, ignore and region labels, every problem reported."""

from __future__ import annotations

import json
import shutil

import pytest

from mednext_jax.errors import InputError
from mednext_jax.io.nnunet_raw import read_ignore_label, read_nnunet_raw
from mednext_jax.io.raw_dataset import subject_of

pytestmark = pytest.mark.core


def change(root, **keys):
    """Change keys of dataset.json; None removes one."""
    file = root / "dataset.json"
    content = json.loads(file.read_text()) | keys
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return root


def test_version_2(raw_dataset):
    root = raw_dataset(channels=2, name="PVS")
    (root / "participants.tsv").write_text("participant_id\tsite\nsub-01\tB\nsub-00\tA\n")
    dataset = read_nnunet_raw(root)
    assert dataset.name == "PVS" and dataset.channel_names == ("T2w", "T2w") and not dataset.problems
    assert dataset.labels == {"background": 0, "pvs": 1} and dataset.label_values == {0, 1}
    assert [case.id for case in dataset.cases] == ["sub-00", "sub-01", "sub-02"]
    assert [path.name for path in dataset.cases[0].images] == ["sub-00_0000.nii.gz", "sub-00_0001.nii.gz"]
    assert dataset.participants == {
        "sub-00": {"participant_id": "sub-00", "site": "A"},
        "sub-01": {"participant_id": "sub-01", "site": "B"},
        "sub-02": {},
    }


def test_version_1(raw_dataset):
    root = change(
        raw_dataset(),
        channel_names=None,
        file_ending=None,
        modality={"0": "T2"},
        labels={"0": "background", "1": "pvs"},
        training=[{"image": f"./imagesTr/sub-0{i}.nii.gz", "label": f"./labelsTr/sub-0{i}.nii.gz"} for i in range(3)],
    )
    dataset = read_nnunet_raw(root)
    assert dataset.channel_names == ("T2",) and dataset.labels == {"background": 0, "pvs": 1}
    assert len(dataset.cases) == 3 and not dataset.problems
    change(root, training=[{"image": "./imagesTr/sub-99.nii.gz"}])
    (problem,) = read_nnunet_raw(root).problems
    assert problem.what == "A case is listed in dataset.json but its files are not there."
    assert problem.expected == "sub-99_0000.nii.gz"


def test_an_explicit_list_of_files(raw_dataset, monkeypatch):
    root = raw_dataset(cases=("a", "b"))
    shutil.move(root / "imagesTr", root / "scans")
    monkeypatch.setenv("SCANS", "scans")
    entry = {"images": ["$SCANS/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}
    broken = {"images": ["scans/b_0000.nii.gz"], "label": "labelsTr/c.nii.gz"}
    change(root, dataset={"A": entry, "B": broken, "C": {"images": []}}, numTraining=3)
    dataset = read_nnunet_raw(root)
    assert [case.id for case in dataset.cases] == ["A"] and dataset.cases[0].images[0].is_file()
    assert [(problem.what, (problem.expected, problem.found)) for problem in dataset.problems] == [
        ("A file that dataset.json lists is missing.", ("a file of case B", "nothing")),
        ("A case of `dataset` is not understood.", ('{"images": [1 paths], "label": path}', "'C': {'images': []}")),
    ]


def test_ignore_label_and_regions(raw_dataset):
    root = raw_dataset(labels={"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, regions_class_order=[1, 2])
    dataset = read_nnunet_raw(root)
    assert dataset.labels == {"background": 0, "whole": (1, 2), "core": (2,)}
    assert dataset.ignore_label == 3 and dataset.regions_class_order == (1, 2)
    assert dataset.label_values == {0, 1, 2, 3}


def test_one_value_in_a_list_and_numbers_written_as_text(raw_dataset):
    labels = {"background": "0", "pvs": [1], "ignore": ["2"]}
    dataset = read_nnunet_raw(raw_dataset(labels=labels, numTraining="3"))
    assert dataset.labels == {"background": 0, "pvs": 1} and dataset.ignore_label == 2
    assert dataset.regions_class_order is None and not dataset.problems


@pytest.mark.parametrize("value", ["many", [3], 3.0, True, None])
def test_a_number_of_cases_that_is_none_is_said(raw_dataset, value):
    root = raw_dataset()
    content = json.loads((root / "dataset.json").read_text()) | {"numTraining": value}
    (root / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="numTraining is not a whole number"):
        read_nnunet_raw(root)


@pytest.mark.parametrize(
    "keys", [{"file_ending": [".nii.gz"]}, {"channel_names": ["T2w"]}, {"labels": {"0": 1, "²": 2}}]
)
def test_lists_and_odd_digits_are_refused(raw_dataset, keys):
    with pytest.raises(InputError, match="dataset.json"):
        read_nnunet_raw(raw_dataset(**keys))


def test_a_list_of_cases_that_is_no_object(raw_dataset):
    dataset = read_nnunet_raw(raw_dataset(dataset=[{"image": "a"}]))
    assert "`dataset` does not list cases." in [problem.what for problem in dataset.problems]


def test_hidden_files_and_endings_in_other_letters(raw_dataset):
    root = raw_dataset()
    for path in [*root.rglob("*.nii.gz")]:
        (path.parent / f"._{path.name}").write_bytes(b"Mac OS X")
    (root / "imagesTr" / "sub-00_0000.nii.gz").rename(root / "imagesTr" / "sub-00_0000.NII.GZ")
    (root / "labelsTr" / "sub-01.nii.gz").rename(root / "labelsTr" / "sub-01.nii.GZ")
    dataset = read_nnunet_raw(root)
    assert [case.id for case in dataset.cases] == ["sub-00", "sub-01", "sub-02"] and not dataset.problems
    shutil.copy(root / "labelsTr" / "sub-01.nii.GZ", root / "labelsTr" / "sub-01.nii.gz")
    assert [problem.what for problem in read_nnunet_raw(root).problems] == ["Two files are of one case."]


def test_the_ignore_label_of_a_folder_of_labels(raw_dataset):
    root = raw_dataset(labels={"background": 0, "pvs": 1, "ignore": 2})
    assert read_ignore_label(root / "labelsTr") == read_ignore_label(root) == 2
    change(root, labels={"0": "background", "1": "pvs", "2": "ignore"})
    assert read_ignore_label(root / "labelsTr") == 2
    change(root, labels={"background": 0, "pvs": 1})
    assert read_ignore_label(root / "labelsTr") is None
    (root / "dataset.json").write_text("{")
    with pytest.raises(InputError, match="JSON"):
        read_ignore_label(root / "labelsTr")
    (root / "dataset.json").unlink()
    assert read_ignore_label(root / "labelsTr") is None


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"background": 0, "pvs": 2}, "not consecutive"),
        ({"pvs": 1}, "no background"),
        ({"background": 0}, "no foreground"),
        ({"background": 0, "pvs": "one"}, "'pvs' has no valid value"),
        ({"background": 0, "pvs": 1, "other": 1}, "same value"),
        ({"background": 0, "pvs": 2, "ignore": 1}, "ignore label is not the highest"),
        ({"background": 0, "pvs": [1, 2]}, "class order"),
        ([0, 1], "no background"),
    ],
)
def test_labels_that_mean_nothing(raw_dataset, labels, words):
    with pytest.raises(InputError, match=words):
        read_nnunet_raw(raw_dataset(labels=labels))


def test_every_problem_of_dataset_json_is_reported(raw_dataset):
    root = change(raw_dataset(), numTraining=None, channel_names={"1": "T2w"}, file_ending=".mha")
    with pytest.raises(InputError) as error:
        read_nnunet_raw(root)
    assert [problem.what for problem in error.value.problems] == [
        "A key is missing in dataset.json.",
        "The channels are not numbered 0, 1, ...",
        "The file ending is not one of NIfTI.",
    ]


def test_every_problem_of_the_file_list_is_reported(raw_dataset):
    root = raw_dataset(cases=("a", "b", "c", "d"), channels=2, numTraining=5)
    (root / "imagesTr" / "a_0001.nii.gz").unlink()
    (root / "labelsTr" / "b.nii.gz").unlink()
    for channel in range(2):
        (root / "imagesTr" / f"c_000{channel}.nii.gz").unlink()
    (root / "imagesTr" / "notes.txt").write_text("")
    (root / "labelsTr" / "d.nii").write_text("")
    dataset = read_nnunet_raw(root)
    assert [case.id for case in dataset.cases] == ["d"]
    assert [problem.found for problem in dataset.problems if "channel" in problem.what] == ["a_0000.nii.gz"]
    assert [problem.file.rsplit("/", 1)[1] for problem in dataset.problems if "no " in problem.what] == [
        "b.nii.gz",
        "c.nii.gz",
    ]
    assert [(problem.severity, problem.what) for problem in dataset.problems] == [
        ("W", "A file in imagesTr is not a case and is left out."),
        ("W", "A file in labelsTr is not a label map and is left out."),
        ("E", "A case does not have every channel once."),
        ("E", "A case has no label map."),
        ("E", "A label map has no image."),
        ("E", "The number of training cases is not the one in dataset.json."),
    ]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"labels": NaN}'])
def test_a_broken_dataset_json(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(InputError, match="JSON|object"):
        read_nnunet_raw(tmp_path)


def test_a_missing_folder(raw_dataset):
    root = raw_dataset()
    shutil.rmtree(root / "labelsTr")
    with pytest.raises(InputError, match="A folder of the data set is missing"):
        read_nnunet_raw(root)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name\tsite\na\tb\n", "no participant_id"),
        ("participant_id\tsite\n", "no rows"),
        ("participant_id\tsite\nsub-00\t" + "x" * 200_000 + "\n", "cannot be read"),
        ("", "empty"),
    ],
)
def test_a_participants_table_that_cannot_be_used_is_warned_of(raw_dataset, text, words):
    root = raw_dataset()
    (root / "participants.tsv").write_text(text)
    dataset = read_nnunet_raw(root)
    (problem,) = dataset.problems
    assert words in problem.what and problem.severity == "W" and problem.file == str(root / "participants.tsv")
    assert set(dataset.participants) == {case.id for case in dataset.cases} and not any(dataset.participants.values())


def test_a_participants_table_that_is_not_fetched_is_not_a_missing_one(raw_dataset):
    root = raw_dataset()
    (root / "participants.tsv").symlink_to(".git/annex/objects/aa/bb/x.tsv")
    (problem,) = read_nnunet_raw(root).problems
    assert problem.severity == "W" and "datalad get" in problem.hint


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("participant_id,site\r\nsub-00,A\r\n", "utf-8-sig"),
        ("participant_id;site\nsub-00;A\n", "utf-8"),
        ("Participant_ID\t site \n\nsub-00\tA \n", "utf-8"),
        ("participant_id\tsite\nsub-00\tA\n", "utf-16"),
        ("participant_id\tsession_id\tsite\nsub-00\tses-1\tA\nsub-00\tses-2\tA\n", "utf-8"),
    ],
)
def test_participants_tables_as_spreadsheets_and_longitudinal_studies_write_them(raw_dataset, text, encoding):
    root = raw_dataset()
    (root / "participants.tsv").write_bytes(text.encode(encoding))
    dataset = read_nnunet_raw(root)
    assert dataset.participants["sub-00"]["site"] == "A" and "session_id" not in dataset.participants["sub-00"]
    assert not any(problem.severity == "E" for problem in dataset.problems)


def test_whatever_version_1_calls_the_value_0_is_the_background(raw_dataset):
    root = raw_dataset()
    change(root, labels={"0": "Background", "1": "PVS"})
    assert read_nnunet_raw(root).labels == {"background": 0, "PVS": 1}


def test_an_ignore_label_that_is_not_fetched_is_not_taken_for_none(raw_dataset):
    root = raw_dataset()
    (root / "dataset.json").unlink()
    (root / "dataset.json").symlink_to(".git/annex/objects/aa/bb/dataset.json")
    for read in (read_nnunet_raw, lambda root: read_ignore_label(root / "labelsTr")):
        with pytest.raises(InputError, match="datalad get"):
            read(root)


def test_names_of_subjects_with_a_hyphen_are_subjects_of_their_own():
    assert [subject_of(name) for name in ("sub-HC-001_ses-1", "sub-HC-002", "sub-01_T2w", "x_sub-1")] == [
        *("sub-HC-001", "sub-HC-002", "sub-01", "x_sub-1")
    ]
