"""The store of prepared cases: crops with padding, damage found, nothing visible before it is complete."""

from __future__ import annotations

import dataclasses
import json
import pickle

import numpy as np
import pytest

from mednext_jax.data.case_store import ANNOTATED, CaseStore, CaseWriter
from mednext_jax.data.prepared import PreparedMeta
from mednext_jax.errors import InputError, WorkError

pytestmark = pytest.mark.core

META = PreparedMeta(
    name="PVS",
    channel_names=("T1w", "T2w"),
    labels={"background": 0, "pvs": 1},
    ignore_label=None,
    regions_class_order=None,
    spacing=(0.8, 0.8, 0.8),
    normalisation=("zscore", "zscore"),
    use_mask_for_norm=True,
    intensity_properties=None,
    cases=("a", "b"),
    subjects={"a": "a", "b": "b"},
    sources={"a": {"a.nii": "0"}, "b": {"b.nii": "1"}},
    settings={"spacing": 0.8},
    versions={},
)
# As mednext-jax 0.1.0 wrote it.
FIRST = json.dumps(
    {
        "format": "mednext-jax-prepared",
        "format_version": 1,
        "name": "PVS",
        "channel_names": ["T1w", "T2w"],
        "labels": {"background": 0, "pvs": 1},
        "ignore_label": None,
        "regions_class_order": None,
        "spacing": [0.8, 0.8, 0.8],
        "normalisation": ["zscore", "zscore"],
        "use_mask_for_norm": True,
        "intensity_properties": None,
        "cases": ["a", "b"],
        "subjects": {"a": "a", "b": "b"},
        "sources": {"a": {"a.nii": "0"}, "b": {"b.nii": "1"}},
        "settings": {"spacing": 0.8},
        "versions": {},
        "regions": {},
        "cleaning": [],
    },
    indent=1,
)
FOLDS = [{"train": ["a"], "val": ["b"]}]


def case(seed):
    random = np.random.default_rng(seed)
    image = random.normal(size=(40, 50, 33, 2)).astype(np.float32)
    return image, (image[..., 0] > 2).astype(np.int16)


RECORD = {
    "properties": {
        "shape": (44, 54, 37),
        "box_start": (2, 2, 2),
        "box_shape": (40, 50, 33),
        "spacing": (0.8, 0.8, 0.8),
        "resampled_shape": (40, 50, 33),
        "resampled_spacing": (0.8, 0.8, 0.8),
    },
    "stored_shape": (37, 54, 44),
    "affine": np.eye(4).tolist(),
}


def write(path):
    writer = CaseWriter(path)
    for seed, name in enumerate(META.cases):
        image, label = case(seed)
        writer.write_case(
            name, image, label, {1: np.argwhere(label == 1), 2: np.empty((0, 3))}, {**RECORD, "key": f"k{seed}"}
        )
    writer.finish(META, FOLDS)
    return writer


@pytest.fixture
def store(tmp_path):
    write(tmp_path / "prepared")
    return CaseStore.open(tmp_path / "prepared")


def test_a_url_is_written_and_read(tmp_path):
    """As gs:// and s3:// are: through TensorStore's key-value stores alone."""
    url = f"file://{tmp_path}/prepared"
    writer = write(url)
    store = CaseStore.open(url)
    np.testing.assert_array_equal(store.read("b")[0], case(1)[0])
    assert store.foreground("a").keys() == {1} and writer.keys() == {"a": "k0", "b": "k1"}
    writer.remove_case("a")
    assert writer.keys() == {"b": "k1"} and not (tmp_path / "prepared" / "cases" / "a" / "image").exists()


def test_what_is_written_is_read(store):
    image, label = case(1)
    assert store.meta == META and store.ids == ("a", "b") and store.splits == FOLDS
    assert store.shape("b") == (40, 50, 33)
    for stored, original in zip(store.read("b"), (image, label), strict=True):
        assert stored.dtype == original.dtype
        np.testing.assert_array_equal(stored, original)
    foreground = store.foreground("b")
    assert set(foreground) == {1} and store.annotated("b") is None
    np.testing.assert_array_equal(foreground[1], np.argwhere(label == 1))


@pytest.mark.parametrize("start", [(5, 6, 7), (-4, 30, 20), (-30, 0, 0), (39, 49, 32), (100, 0, 0), (-10, -10, -10)])
def test_crops_are_padded_outside(store, start):
    size = (24, 70, 20)
    image, label = case(0)
    padded_image = np.pad(image, ((100, 150),) * 3 + ((0, 0),))
    padded_label = np.pad(label, 100, constant_values=-1)
    padded_label = np.pad(padded_label, ((0, 50),) * 3, constant_values=-1)
    box = tuple(slice(100 + s, 100 + s + n) for s, n in zip(start, size, strict=True))
    got_image, got_label = store.crop("a", start, size)
    assert got_image.shape == (*size, 2) and got_label.dtype == np.int16
    np.testing.assert_array_equal(got_image, padded_image[box])
    np.testing.assert_array_equal(got_label, padded_label[box])


def test_a_store_travels_to_other_processes(store):
    store.read("a")
    again = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(again.read("a")[0], store.read("a")[0])
    assert len(pickle.dumps(store)) < 4096


def test_an_array_is_one_file(store, tmp_path):
    folder = tmp_path / "prepared/cases/a/image"
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    assert sorted(files) == ["c/0/0/0/0", "zarr.json"]


def test_flipped_bits_are_found(store, tmp_path):
    path = tmp_path / "prepared/cases/a/image/c/0/0/0/0"
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="stored case cannot be read: a(.|\n)*prepare` again"):
        store.read("a")
    store.read("b")


@pytest.mark.parametrize("gone", ["image/zarr.json", "label/zarr.json", "case.json"])
def test_a_missing_part_of_a_case_is_named(store, tmp_path, gone):
    (tmp_path / "prepared/cases/a" / gone).unlink()
    with pytest.raises(InputError, match=r"cannot be read: a(.|\n)*cases/a/" + gone.split("/")[0]):
        CaseStore.open(tmp_path / "prepared")


def test_another_array_in_its_place_is_refused(store, tmp_path):
    path = tmp_path / "prepared/cases/a/label/zarr.json"
    content = json.loads(path.read_text())
    content["shape"] = [2**20, 2**20, 2**20]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="an array of shape"):
        CaseStore.open(tmp_path / "prepared")


CASE = "cases/a/case.json"


def change(path, **values):
    """Replace fields of a JSON file; a name with a dot is of a group."""
    content = json.loads(path.read_text())
    for name, value in values.items():
        group, _, field = name.rpartition("__")
        (content[group] if group else content)[field] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["image/c/0/0/0/0", "label/c/0/0/0", "foreground/1/c/0/0"])
@pytest.mark.parametrize("version", ["0.1.0", "now"])
def test_a_missing_or_cut_file_of_values_is_found_at_once(tmp_path, name, version):
    """TensorStore reads a missing one as zeros."""
    write(tmp_path / "prepared")
    path = tmp_path / "prepared/cases/a" / name
    if version == "0.1.0":
        forget_hashes(tmp_path / "prepared")
    else:
        data = path.read_bytes()
        path.write_bytes(data[:-1])
        with pytest.raises(InputError, match=f"its file has {len(data) - 1} bytes, not {len(data)}"):
            CaseStore.open(tmp_path / "prepared")
    path.unlink()
    with pytest.raises(InputError, match="cannot be read: a(.|\n)*the file with its values is missing"):
        CaseStore.open(tmp_path / "prepared")


def forget_hashes(path):
    for file in path.glob("cases/*/case.json"):
        record = json.loads(file.read_text())
        record.pop("arrays", None)
        file.write_text(json.dumps(record))


@pytest.mark.parametrize("where", ["", "file://"])
def test_a_case_without_pvs_has_no_file_of_labels(tmp_path, where):
    writer = CaseWriter(f"{where}{tmp_path}/prepared")
    image, label = case(0)
    writer.write_case("a", image, np.zeros_like(label), {}, {**RECORD, "key": "k"})
    writer.finish(dataclasses.replace(META, cases=("a",)), [{"train": ["a"], "val": []}])
    assert not (tmp_path / "prepared/cases/a/label/c").exists()
    for _ in range(2):
        assert not CaseStore.open(f"{where}{tmp_path}/prepared").read("a")[1].any()
        forget_hashes(tmp_path / "prepared")


def test_data_of_another_case_in_its_place_is_found_when_read(store, tmp_path):
    """Its checksums are right, and where sizes are not known so is all that can be seen without reading it."""
    for name in ("image/c/0/0/0/0", "label/c/0/0/0"):
        data = (tmp_path / "prepared/cases/b" / name).read_bytes()
        (tmp_path / "prepared/cases/a" / name).write_bytes(data)
    with pytest.raises(InputError, match=r"cannot be read: a(.|\n)*sha256 differs"):
        CaseStore.open(f"file://{tmp_path}/prepared").read("a")


@pytest.mark.parametrize("depth", [100_000, 500])
def test_a_deeply_nested_description_of_an_array_does_not_reach_tensorstore(store, tmp_path, depth):
    """It ends the process there."""
    (tmp_path / "prepared/cases/a/image/zarr.json").write_text("[" * depth + "]" * depth)
    with pytest.raises(InputError, match="cannot be read: a"):
        CaseStore.open(tmp_path / "prepared")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"foreground": []}, "no counts"),
        ({"foreground": {"1": [2]}}, "no counts"),
        ({"foreground": {"9": 2}}, "foreground of classes 9"),
        ({"foreground": {"x": 2}}, "foreground of classes x"),
        ({"foreground": {"1": 2**30}}, "voxels of a case that has"),
        ({"foreground": {"1": 1}}, "an array of shape"),
        ({"properties": None}, "no properties"),
        ({"properties__spacing": [0.8, 0.8]}, "properties.spacing"),
        ({"properties__spacing": [0.8, 0.8, [0.8]]}, "properties.spacing"),
        ({"properties__resampled_spacing": [0.8, 0.8, 0]}, "properties.resampled_spacing"),
        ({"properties__shape": [44, 54, 37.5]}, "properties.shape"),
        ({"properties__box_start": [2, 2, -1]}, "properties.box_start"),
        ({"properties__box_start": [5, 2, 2]}, "beyond the scan"),
        ({"properties__resampled_shape": [40, 50, 34]}, "an array of shape"),
        ({"stored_shape": "44 54 37"}, "stored_shape"),
        ({"affine": [1, 0, 0, 0]}, "affine"),
        ({"affine": [[1, 0, 0, "0"]] * 4}, "affine"),
        ({"arrays": {"image": 3}}, "arrays without"),
        ({"arrays": {}}, "no hash"),
    ],
)
def test_a_damaged_record_is_found_at_once(store, tmp_path, values, words):
    change(tmp_path / "prepared" / CASE, **values)
    with pytest.raises(InputError, match=rf"cannot be read: a(.|\n)*{words}"):
        CaseStore.open(tmp_path / "prepared")


@pytest.mark.parametrize(
    "values",
    [{"data_type": "int16"}, {"fill_value": 7}, {"codecs": []}, {"chunk_grid": 3}, {"shape": [40, 50, "33", 2]}],
)
def test_a_description_of_another_array_is_refused(store, tmp_path, values):
    change(tmp_path / "prepared/cases/a/image/zarr.json", **values)
    with pytest.raises(InputError, match=r"cannot be read: a(.|\n)*zarr.json: an array"):
        CaseStore.open(tmp_path / "prepared")


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ({}, "another kind"),
        ([], "another kind"),
        ([3], "fold 0 without lists"),
        ([{"train": ["a"]}], "fold 0 without lists"),
        ([{"train": ["a"], "val": [["b"]]}], "fold 0 without lists"),
        ([{"train": ["a"], "val": ["c"]}], "fold 0 names 'c'"),
        ([FOLDS[0], {"train": ["a"], "val": ["a"]}], "fold 1 names a case twice"),
    ],
)
def test_damaged_splits_are_found_at_once(store, tmp_path, splits, words):
    (tmp_path / "prepared/splits.json").write_text(json.dumps(splits))
    with pytest.raises(InputError, match=words):
        CaseStore.open(tmp_path / "prepared")


def test_foreground_outside_of_the_scan_is_refused(tmp_path):
    writer = write(tmp_path / "prepared")
    image, label = case(0)
    writer.write_case("a", image, label, {1: np.array([[0, 0, 40]])}, {**RECORD, "key": "k"})
    with pytest.raises(InputError, match="voxels outside of the scan"):
        CaseStore.open(tmp_path / "prepared").foreground("a")


def test_the_problems_of_all_cases_are_reported_together(store, tmp_path):
    for name in "ab":
        (tmp_path / "prepared/cases" / name / "case.json").write_text("null")
    with pytest.raises(InputError) as error:
        CaseStore.open(tmp_path / "prepared")
    assert len(error.value.problems) == 2


def test_nothing_is_visible_before_finish(tmp_path):
    writer = CaseWriter(tmp_path / "new")
    assert not writer.started and writer.meta() is None and writer.keys() == {}
    assert not (tmp_path / "new").exists()
    writer.begin()
    image, label = case(0)
    writer.write_case("a", image, label, {ANNOTATED: np.argwhere(label == 0)[:7]}, {**RECORD, "key": "k"})
    assert writer.started and writer.keys() == {"a": "k"}
    with pytest.raises(InputError, match="no complete prepared data set"):
        CaseStore.open(tmp_path / "new")
    writer.finish(dataclasses.replace(META, cases=("a",)), [{"train": ["a"], "val": []}])
    store = CaseStore.open(tmp_path / "new")
    assert store.annotated("a").shape == (7, 3) and store.foreground("a") == {}
    assert not (tmp_path / "new" / "unfinished.json").exists()
    writer.remove_case("a")
    assert writer.keys() == {} and not (tmp_path / "new/cases/a").exists()


def test_a_case_that_cannot_be_written_is_an_error_of_the_work(tmp_path):
    writer = write(tmp_path / "prepared")
    image, label = case(0)
    (tmp_path / "prepared/cases/c").write_text("in the way")
    with pytest.raises(WorkError, match="cases/c/case.json cannot be written"):
        writer.write_case("c", image, label, {}, {"key": "k"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "zip"}, "another kind of file"),
        ({"format_version": 2}, "another version"),
        ({"colour": 1}, r"unknown: \['colour'\]"),
        ({"labels": [1]}, "does not describe itself"),
        (None, "not valid JSON"),
    ],
)
def test_a_strange_description_is_refused(store, tmp_path, change, words):
    path = tmp_path / "prepared/prepared.json"
    path.write_text("{" if change is None else json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=words):
        CaseStore.open(tmp_path / "prepared")


def test_region_classes():
    meta = dataclasses.replace(META, labels={"background": 0, "whole": (1, 2), "core": 2})
    assert meta.classes == {1: (1, 2), 2: (2,)}
    assert dataclasses.replace(META, labels={"b": 2, "background": 0, "a": 1}).classes == {1: (1,), 2: (2,)}
    assert PreparedMeta.from_json(meta.to_json().encode(), "x") == meta


def test_a_description_of_the_first_version_is_read_and_keeps_its_text():
    """Data sets are hashed by this text; fields that came later are written only where they say something."""
    assert PreparedMeta.from_json(FIRST.encode(), "prepared.json") == META
    assert META.to_json() == FIRST
    steps = FIRST.replace('"cleaning": []', '"cleaning": [\n  "n4"\n ]')
    meta = PreparedMeta.from_json(steps.encode(), "prepared.json")
    assert meta.optional_steps == ("n4",) and meta.to_json() == steps  # and so its hash
    later = dataclasses.replace(META, brain_extracted=True)
    assert PreparedMeta.from_json(later.to_json().encode(), "prepared.json") == later
    assert later.preprocessing == dataclasses.replace(META.preprocessing, brain_extracted=True)
    with pytest.raises(InputError, match="normalisation is not valid"):
        PreparedMeta.from_json(FIRST.replace("zscore", "minmax").encode(), "prepared.json")
