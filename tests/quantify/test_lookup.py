"""Lookup tables in every form, and what is no table."""

from __future__ import annotations

import json

import pytest

from mednext_jax.errors import InputError
from mednext_jax.measure.freesurfer import FREESURFER
from mednext_jax.quantify.lookup import read_lookup, structure_of

pytestmark = pytest.mark.core

NAMES = {1: "white matter", 2: "Left-Putamen", 3: "Right-Putamen"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", json.dumps({"white matter": 1, "Left-Putamen": 2, "Right-Putamen": 3})),
        ("a.json", json.dumps({str(value): name for value, name in NAMES.items()})),
        ("a.json", json.dumps({"white matter": [1], "Left-Putamen": [2], "Right-Putamen": 3})),
        ("a.tsv", "index\tname\n0\tbackground\n1\twhite matter\n2\tLeft-Putamen\n3\tRight-Putamen\n"),
        ("a.tsv", "Name\tIndex\nwhite matter\t1\nLeft-Putamen\t2\nRight-Putamen\t3\n"),
        (
            "a.txt",
            "#No Label\n0 Unknown 0 0 0 0\n1 white-matter 1 1 1 0\n2 Left-Putamen 2 2 2 0\n3 Right-Putamen 3 3 3 0\n",
        ),
    ],
)
def test_the_same_table_in_every_form(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    found = read_lookup(tmp_path / name)
    assert {v: (s.region.replace("-", " "), s.hemisphere) for v, s in found.items()} == {
        1: ("white matter", ""),
        2: ("Putamen", "left"),
        3: ("Putamen", "right"),
    }


def test_the_preset():
    assert read_lookup("freesurfer") is FREESURFER


@pytest.mark.parametrize(
    ("name", "region", "hemisphere", "tissue"),
    [
        ("Left-Lateral-Ventricle", "Lateral-Ventricle", "left", "ventricle"),
        ("ctx-rh-insula", "insula", "right", "cortex"),
        ("putamen_R", "putamen", "right", ""),
        ("lh.thalamus", "thalamus", "left", ""),
        ("CSF", "CSF", "", "csf"),
        ("leftover", "leftover", "", ""),
        ("Unknown", "", "", ""),
    ],
)
def test_sides_and_tissues_from_names(name, region, hemisphere, tissue):
    found = structure_of(name)
    assert (found.region, found.hemisphere, found.tissue) == (region, hemisphere, tissue)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", "[1, 2]"),
        ("a.json", '{"wm": true}'),
        ("a.json", '{"wm": -1}'),
        ("a.json", '{"wm": 1, "bg": 1}'),
        ("a.json", "{}"),
        ("a.json", '{"whole brain": 1}'),
        ("a.tsv", "index\tname\nx\twm\n"),
        ("a.tsv", "index\tname\n1\twm\n1\tbg\n"),
        ("a.txt", "just some text\n"),
        ("a.txt", ""),
    ],
)
def test_what_is_no_table(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=name):
        read_lookup(tmp_path / name)


def test_a_missing_table(tmp_path):
    with pytest.raises(InputError, match="lookup table"):
        read_lookup(tmp_path / "nowhere.tsv")
