"""What is said of files and folders whose content is elsewhere: where a link points, and how to fetch it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mednext_jax.convert.sources import read_sources
from mednext_jax.errors import InputError
from mednext_jax.evaluate.evaluate import evaluate, find_masks
from mednext_jax.inference.scans import find_scans
from mednext_jax.io.absent import refuse_absent, refuse_no_folder
from mednext_jax.io.bids import read_bids
from mednext_jax.io.brain_masks import BrainMasks
from mednext_jax.io.nnunet_raw import read_ignore_label, read_nnunet_raw
from mednext_jax.io.raw_dataset import read_participants
from mednext_jax.measure.regions import RegionMaps
from mednext_jax.prepare.prepare import prepare
from mednext_jax.weights.directory import load_model, load_models

pytestmark = pytest.mark.core

ANNEX = ".git/annex/objects/x9/25/MD5E-s1--aa"


def link(path: Path, target: str = "/gone/elsewhere") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.symlink(target, path)
    return path


@pytest.mark.parametrize("name", ["a.nii.gz", "{a}.nii", "a{0}.json"])  # braces of a name are no fields of a hint
def test_links_and_pointers_say_where_the_content_is(tmp_path, name):
    link(tmp_path / name)
    with pytest.raises(InputError, match="A scan is missing(.|\n)*a link to /gone/elsewhere, which is not there"):
        refuse_absent(tmp_path / name, "scan", "a file")
    (tmp_path / name).unlink()
    for make in (lambda p: link(p, ANNEX), lambda p: p.write_text(f"/{ANNEX}\n".replace(".git/", ""))):
        make(tmp_path / name)
        with pytest.raises(InputError, match="not on this machine") as error:
            refuse_absent(tmp_path / name, "scan", "a file")
        assert f"datalad get {tmp_path / name}" in str(error.value)
        (tmp_path / name).unlink()


def test_a_link_above_the_path_is_named(tmp_path):
    link(tmp_path / "data")
    with pytest.raises(InputError) as error:
        refuse_absent(tmp_path / "data" / "sub" / "a.nii", "scan", "a file")
    assert f"in {tmp_path / 'data'}, a link to /gone/elsewhere, which is not there" in str(error.value)
    with pytest.raises(InputError, match="found:    nothing"):
        refuse_absent(tmp_path / "a.nii", "scan", "a file")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="found:    a file"):
        refuse_no_folder(tmp_path / "file", "No folder.")
    refuse_no_folder(tmp_path, "No folder.")


READERS = {
    "predict -i": lambda path: find_scans(path, ["T2w"]),
    "predict -m, a workdir": lambda path: load_models(path),
    "convert and info": lambda path: read_sources(path),
    "prepare": lambda path: prepare(path, path.with_name("out")),
    "prepare --labels": lambda path: read_bids(path.with_name("bids"), path),
    "--brain-masks": lambda path: BrainMasks.open(path),
    "--regions": lambda path: RegionMaps.open(path),
    "evaluate -p": lambda path: evaluate(path, path.with_name("bids"), path.with_name("out")),
    "evaluate -r": lambda path: evaluate(path.with_name("bids"), path, path.with_name("out")),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
def test_every_folder_that_is_a_link_to_nowhere_is_told_as_one(tmp_path, read):
    (tmp_path / "bids" / "sub-1" / "anat").mkdir(parents=True)
    (tmp_path / "bids" / "sub-1" / "anat" / "sub-1_T2w.nii.gz").touch()
    with pytest.raises(InputError, match="a link to /gone/elsewhere, which is not there"):
        read(link(tmp_path / "data"))
    with pytest.raises(InputError, match="datalad get"):
        read(link(tmp_path / "annexed", ANNEX))


def test_descriptions_that_are_links_to_nowhere_are_not_taken_as_absent(tmp_path):
    link(tmp_path / "dataset.json", ANNEX)
    for read in (read_nnunet_raw, read_ignore_label, lambda root: prepare(root, tmp_path / "out")):
        with pytest.raises(InputError, match="datalad get"):
            read(tmp_path)
    link(tmp_path / "participants.tsv")
    _, problems = read_participants(tmp_path, ["a"])  # which only some splits need
    assert problems[0].what == "A table is missing." and problems[0].found.startswith("a link to")


def test_a_subject_that_is_a_link_to_nowhere_is_not_left_out_in_silence(tmp_path):
    root, labels = tmp_path / "bids", tmp_path / "labels"
    for folder, name in ((root / "sub-1" / "anat", "sub-1_T2w.nii.gz"), (labels, "sub-1_mask.nii.gz")):
        folder.mkdir(parents=True)
        (folder / name).touch()
    gone = [link(root / "sub-2"), link(root / "sub-3" / "ses-1"), link(root / "sub-4" / "anat")]
    link(labels / "sub-2")
    found = [(problem.file, problem.severity) for problem in read_bids(root, labels).problems]
    assert found == [*((str(path), "E") for path in gone), (str(labels / "sub-2"), "W")]
    with pytest.raises(InputError, match="sub-2"):  # the only other scan is empty
        find_scans(root, ["T2w"])


def test_a_folder_of_masks_that_is_a_link_to_nowhere_is_said(tmp_path, capsys):
    (tmp_path / "a_mask.nii.gz").touch()
    link(tmp_path / "sub-2")
    assert list(find_masks(tmp_path)) == ["a"]
    assert "what was in it is left out" in (printed := capsys.readouterr().out) and "/gone/elsewhere" in printed


def test_files_that_a_data_set_lists_are_links_to_nowhere(tmp_path):
    content = {"channel_names": {"0": "T2w"}, "labels": {"background": 0, "pvs": 1}, "numTraining": 1}
    listed = {"dataset": {"a": {"images": ["a.nii.gz"], "label": "l.nii.gz"}}, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(content | listed))
    link(tmp_path / "a.nii.gz", ANNEX)
    problems = read_nnunet_raw(tmp_path).problems
    assert "git-annex" in problems[0].found and problems[1].found == "nothing"


@pytest.mark.parametrize("of", ["fold_1", "fold_1/model.json"])
def test_an_ensemble_does_not_lose_a_member_in_silence(tmp_path, of):
    (tmp_path / "fold_0").mkdir()
    (tmp_path / "fold_0" / "model.json").write_text("{}")
    link(tmp_path / of, ANNEX)
    with pytest.raises(InputError, match="2 model directories: fold_0, fold_1"):
        load_model(tmp_path)


@pytest.mark.parametrize("of", ["fold_1", "fold_1/checkpoint_final.pth"])
def test_a_checkpoint_that_is_a_link_to_nowhere_is_not_passed_over(tmp_path, of):
    link(tmp_path / of, ANNEX)
    if "/" in of:
        (tmp_path / "fold_1" / "checkpoint_best.pth").write_bytes(b"another one")
    with pytest.raises(InputError, match="datalad get"):
        read_sources(tmp_path)
