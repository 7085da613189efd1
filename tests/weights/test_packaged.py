"""The model in the package: whole, small, told about, and found by its name."""

from __future__ import annotations

import json
import re

import pytest

from mednext_jax.errors import InputError
from mednext_jax.hub.find import find_source
from mednext_jax.weights import packaged
from mednext_jax.weights.directory import WEIGHTS, load_model, notice_of
from mednext_jax.weights.packaged import LARGEST, NAME, or_packaged, packaged_model
from mednext_jax.weights.safetensors_file import read_tensors
from tools.package_model import CARD, FIGURES, PICTURE, card, notice
from tools.tables import read_tables

pytestmark = pytest.mark.core


def test_it_is_whole_small_and_for_any_single_scan():
    folder = packaged_model()
    model = load_model(folder)
    assert len(model.recipe.channel_names) == 1 and model.recipe.decision_threshold is not None
    assert (folder / WEIGHTS).stat().st_size <= LARGEST
    assert {x.dtype.name for x in read_tensors(folder / WEIGHTS).values()} == {"float16"}
    told = notice_of(model.provenance)
    assert told == notice(model.recipe) and "simulated PVS only, not validated on patients" in told


def test_its_card_says_what_its_files_say():
    folder = packaged_model()
    tables = read_tables(folder / FIGURES) if (folder / FIGURES).exists() else []
    size = (folder / WEIGHTS).stat().st_size
    assert (folder / CARD).read_text() == "\n".join(card(load_model(folder), size, tables))


def test_its_card_shows_the_reliability_curve():
    folder = packaged_model()
    (shown,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (folder / CARD).read_text())
    picture = (folder / shown).read_bytes()
    assert shown == PICTURE and picture.startswith(b"\x89PNG") and len(picture) <= 30_000


def test_nothing_of_the_machine_that_trained_it_is_told():
    text = (packaged_model() / "model.json").read_text()

    def texts(value):
        if isinstance(value, dict):
            return [t for one in value.values() for t in texts(one)]
        return [t for one in value for t in texts(one)] if isinstance(value, list) else [str(value)]

    assert not [t for t in texts(json.loads(text)) if t.startswith(("/", "~"))]


def test_a_folder_of_its_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert or_packaged(NAME) == find_source(NAME) == packaged.FOLDER
    assert or_packaged("model") == "model"
    (tmp_path / NAME).mkdir()
    assert or_packaged(NAME) == NAME


def test_an_installation_without_it_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(packaged, "FOLDER", tmp_path / "nothing")
    with pytest.raises(InputError, match="installation is not whole"):
        find_source(NAME)
