"""`mednext-jax models`, and the names of published models."""

from __future__ import annotations

import shutil

import pytest

from mednext_jax import main as command_line
from mednext_jax.errors import InputError
from mednext_jax.hub.known import DOI, KNOWN, known_folder
from mednext_jax.hub.open_model import open_models
from tests.convert.torch_archive import DATA

pytestmark = pytest.mark.core


def test_models_lists_published_names_and_the_cache(tmp_path, cache, capsys):
    assert command_line.main(["models"]) == 0
    out = capsys.readouterr().out
    assert DOI in out and "nothing yet" in out and all(m.name in out and m.path in out for m in KNOWN)
    shutil.copy(DATA / "checkpoint_final.pth", tmp_path / "a\x1b[2Jb.pth")
    (model,) = open_models(tmp_path / "a\x1b[2Jb.pth")
    (cache / "converted" / "broken").mkdir()
    (cache / "fetched" / "half").mkdir(parents=True)
    capsys.readouterr()
    assert command_line.main(["models"]) == 0
    out = capsys.readouterr().out
    assert str(model.path) in out and "nnU-Net v2 checkpoint" in out and model.provenance["source_sha256"] in out
    assert "damaged" in out and "not whole" in out and "\x1b" not in out


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_a_published_name_tells_how_to_get_it(known):
    with pytest.raises(InputError, match=known.folder) as caught:
        open_models(known.name)
    assert DOI in str(caught.value)


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / KNOWN[0].name).mkdir()
    with pytest.raises(InputError, match="not a model directory"):
        open_models(KNOWN[0].name)


def test_a_path_in_a_published_folder_is_known(tmp_path):
    assert known_folder(tmp_path / KNOWN[1].path / "fold_0") == KNOWN[1]
    assert known_folder(tmp_path) is None
