"""hf://ORG/NAME[@REV] against a server that answers as the hub does, with huggingface_hub's own client."""

from __future__ import annotations

import hashlib
import json

import pytest

from mednext_jax.convert.convert import convert
from mednext_jax.errors import InputError
from mednext_jax.hub.fetched import fetch
from mednext_jax.hub.open_model import open_models
from tests.convert.torch_archive import DATA

pytest.importorskip("huggingface_hub")

COMMIT, OLD = "c" * 40, "d" * 40


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub:
    """A hub on `site` with one repository, lab/pvs."""

    def __init__(self, site):
        self.site = site

    def put(self, files, large=(), commit=COMMIT, revisions=("main",), told=None):
        """told: other hashes than the files' own, by name."""
        siblings = []
        for name, content in files.items():
            sha256 = (told or {}).get(name, hashlib.sha256(content).hexdigest())
            listed = {"rfilename": name, "size": len(content), "blobId": (told or {}).get(name, git_hash(content))}
            if name in large:
                listed["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
            siblings.append(listed)
            headers = {"X-Repo-Commit": commit, "ETag": f'"{listed["blobId"]}"', "Accept-Ranges": "bytes"}
            self.site.put(f"/lab/pvs/resolve/{commit}/{name}", content, **headers)
        about = json.dumps({"id": "lab/pvs", "modelId": "lab/pvs", "sha": commit, "siblings": siblings}).encode()
        for revision in (*revisions, commit):
            self.site.put(f"/api/models/lab/pvs/revision/{revision}", about, **{"Content-Type": "application/json"})
        if "main" in revisions:
            self.site.put("/api/models/lab/pvs", about, **{"Content-Type": "application/json"})


@pytest.fixture
def hub(site, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", site.address)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    return Hub(site)


@pytest.fixture
def files(tmp_path):
    """A model directory's files, with others that a repository may hold."""
    convert(DATA / "checkpoint_final.pth", tmp_path / "model")
    names = ("model.json", "model.safetensors")
    return {f"pvs/{n}": (tmp_path / "model" / n).read_bytes() for n in names} | {"README.md": b"# PVS", "x.onnx": b"0"}


def test_a_repository_is_fetched_once_at_one_commit(hub, files, cache, tmp_path, capsys):
    hub.put(files, large=("pvs/model.safetensors",))
    (model,) = open_models("hf://lab/pvs")
    assert COMMIT in capsys.readouterr().out
    assert sorted(p.name for p in fetch("hf://lab/pvs").rglob("*") if p.is_file()) == [
        "model.json",
        "model.safetensors",
    ]
    assert not any(path.startswith("GET /lab/pvs/resolve") and "onnx" in path for path in hub.site.asked)
    assert model.recipe == open_models(tmp_path / "model")[0].recipe
    hub.site.close()
    asked = len(hub.site.asked)
    assert open_models("hf://lab/pvs")[0].path == model.path and len(hub.site.asked) == asked


def test_a_revision_is_another_model(hub, files):
    hub.put(files)
    hub.put(files | {"extra.pt": b"old"}, commit=OLD, revisions=("v1",))
    assert not (fetch("hf://lab/pvs") / "extra.pt").exists()
    assert (fetch("hf://lab/pvs@v1") / "extra.pt").read_bytes() == b"old"


@pytest.mark.parametrize("name", ["pvs/model.safetensors", "pvs/model.json"])
def test_a_file_with_another_hash_keeps_nothing(hub, files, cache, name):
    hub.put(files, large=("pvs/model.safetensors",), told={name: "0" * (64 if "safetensors" in name else 40)})
    with pytest.raises(InputError, match="checksum differs") as caught:
        fetch("hf://lab/pvs")
    assert name in str(caught.value)
    assert not [path for path in cache.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("code", "words"),
    [("RepoNotFound", "no such repository"), ("RevisionNotFound", "no such revision"), ("GatedRepo", "whom its owner")],
)
def test_what_is_not_there_is_said(hub, cache, code, words):
    status = 403 if code == "GatedRepo" else 404
    hub.site.put("/api/models/lab/pvs/revision/v9", b"{}", status=status, **{"X-Error-Code": code})
    with pytest.raises(InputError, match=words):
        fetch("hf://lab/pvs@v9")
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_no_network(hub, files, cache):
    hub.put(files)
    hub.site.close()
    with pytest.raises(InputError, match="could not be fetched"):
        fetch("hf://lab/pvs")
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_a_full_disk_is_no_lack_of_network(hub, files, cache, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    hub.put(files)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", full)
    with pytest.raises(InputError, match="cache of models cannot be written") as caught:
        fetch("hf://lab/pvs")
    assert "No space left" in str(caught.value)
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_a_name_that_leads_outside_is_refused(hub, tmp_path):
    hub.put({"../../model.json": b"{}"})
    with pytest.raises(InputError, match="outside of itself"):
        fetch("hf://lab/pvs")


def test_a_repository_without_weights(hub):
    hub.put({"README.md": b"# nothing"})
    with pytest.raises(InputError, match="holds no weights"):
        fetch("hf://lab/pvs")
