"""Models from a web server on loopback: fetched once, checked, and used without a network from then on."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mednext_jax import main as command_line
from mednext_jax.convert.convert import convert
from mednext_jax.errors import InputError
from mednext_jax.hub import archive
from mednext_jax.hub.fetched import fetch
from mednext_jax.hub.find import find_source
from mednext_jax.hub.open_model import open_models
from tests.convert.torch_archive import DATA, zipped

pytest.importorskip("pooch")

V2 = (DATA / "checkpoint_final.pth").read_bytes()
PIN = hashlib.sha256(V2).hexdigest()


def is_empty(cache):
    """Whether nothing was kept, whole or half."""
    return not [path for path in cache.rglob("*") if path.is_file()]


def test_a_file_is_fetched_once(site, cache, capsys):
    address = site.put("/m/checkpoint_final.pth", V2)
    (first,) = open_models(address)
    assert f"pinned by {address}#sha256={PIN}" in capsys.readouterr().out
    site.close()
    (again,) = open_models(address)
    assert again.path == first.path and site.asked == ["GET /m/checkpoint_final.pth"]
    assert [model.path for model in open_models(f"{address}#sha256={PIN.upper()}")] == [first.path]
    record = json.loads(next((cache / "fetched").glob("*/fetched.json")).read_text())
    assert record["sha256"] == PIN and record["address"] == address


def test_a_checksum_that_differs_keeps_nothing(site, cache):
    address = site.put("/m.pth", V2)
    with pytest.raises(InputError, match="its checksum differs") as caught:
        open_models(f"{address}#sha256={'0' * 64}")
    assert "0" * 64 in str(caught.value) and PIN in str(caught.value)
    assert is_empty(cache)
    open_models(address)
    with pytest.raises(InputError, match="has another checksum"):
        open_models(f"{address}#sha256={'0' * 64}")


def test_a_file_that_does_not_exist(site, cache):
    with pytest.raises(InputError, match="404"):
        open_models(f"{site.address}/nowhere.pth")
    assert is_empty(cache)


def test_no_network(site, cache, capsys):
    address = site.put("/m.pth", V2)
    site.close()
    with pytest.raises(InputError, match="could not be fetched") as caught:
        open_models(address)
    assert "needs no network" in str(caught.value)
    assert is_empty(cache)
    assert command_line.main(["info", address]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_full_disk_keeps_nothing(site, cache, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    address = site.put("/m.pth", V2)
    monkeypatch.setattr("pooch.retrieve", full)
    with pytest.raises(InputError, match="cache of models cannot be written") as caught:
        fetch(address)
    assert "No space left" in str(caught.value) and is_empty(cache)


def test_an_answer_that_breaks_off_keeps_nothing(site, cache):
    site.pages["/m.pth"] = (200, {"Content-Length": str(len(V2))}, V2[:1000])
    with pytest.raises(InputError, match="could not be fetched"):
        open_models(f"{site.address}/m.pth")
    assert is_empty(cache)


def test_several_at_once_fetch_once(site):
    address = site.put("/m.pth", V2)
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(fetch, [address] * 4))
    assert len(set(paths)) == len(site.asked) == 1


def test_a_process_that_was_killed_leaves_nothing_behind(site, cache):
    address, answer = f"{site.address}/m.pth", threading.Event()

    def waits(_):
        answer.wait(60)
        return 200, {}, V2

    site.pages["/m.pth"] = waits
    code = f"from mednext_jax.hub.fetched import fetch; fetch({address!r})"
    process = subprocess.Popen([sys.executable, "-c", code])
    while not site.asked and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.wait()
    answer.set()
    path = fetch(address)
    assert path.read_bytes() == V2
    assert [entry.name for entry in (cache / "fetched").iterdir()] == [path.parents[1].name]


def test_a_file_that_was_cut_on_the_disk_is_fetched_again(site):
    address = site.put("/m.pth", V2)
    path = fetch(address)
    path.write_bytes(V2[:10])
    assert fetch(address).read_bytes() == V2 and len(site.asked) == 2


def tar(**members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        for name, data in members.items():
            info = tarfile.TarInfo(name.replace("__", "/"))
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def test_an_archive_of_a_model_directory(site, tmp_path, cache):
    convert(DATA / "checkpoint_final.pth", tmp_path / "model")
    names = ("model.json", "model.safetensors")
    files = {f"pvs__{name}": (tmp_path / "model" / name).read_bytes() for name in names}
    for ending, packed in (
        ("tar.gz", tar(**files)),
        ("zip", zipped([(k.replace("__", "/"), v) for k, v in files.items()])),
    ):
        (model,) = open_models(site.put(f"/pvs.{ending}", packed))
        assert model.path.name == "pvs" and not list((cache / "fetched").glob("*/archive"))
        (tmp_path / f"local.{ending}").write_bytes(packed)
        assert open_models(tmp_path / f"local.{ending}")[0].path.is_relative_to(cache / "unpacked")


def test_an_archive_that_writes_outside_is_refused(site, tmp_path, cache):
    packed = tar(**{"..__..__..__..__escaped": b"x", "model.json": b"{}"})
    with pytest.raises(InputError, match="cannot be unpacked"):
        open_models(site.put("/bad.tar.gz", packed))
    (tmp_path / "bad.tar.gz").write_bytes(packed)
    with pytest.raises(InputError, match="cannot be unpacked"):
        open_models(tmp_path / "bad.tar.gz")
    assert is_empty(cache) and not list(tmp_path.rglob("escaped"))


def test_a_python_without_safe_tar_says_so(tmp_path, monkeypatch, cache):
    (tmp_path / "model.tar").write_bytes(tar(**{"model.json": b"{}"}))
    monkeypatch.delattr(archive.tarfile, "data_filter")
    with pytest.raises(InputError, match="name the folder"):
        find_source(tmp_path / "model.tar")
    assert is_empty(cache)


@pytest.mark.parametrize("cut", [0.5, 0.9])
def test_a_damaged_archive_is_refused(tmp_path, cache, cut):
    whole = tar(**{"model.json": b"{}", "model.safetensors": bytes(range(256)) * 400})
    (tmp_path / "model.tar.gz").write_bytes(whole[: int(len(whole) * cut)])
    with pytest.raises(InputError, match="cannot be unpacked"):
        find_source(tmp_path / "model.tar.gz")
    assert is_empty(cache)


def test_an_archive_larger_than_the_disk_is_refused(tmp_path, cache, monkeypatch):
    (tmp_path / "large.zip").write_bytes(zipped([("model.json", b"x" * 1000)]))
    usage = shutil.disk_usage(tmp_path)._replace(free=999)
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match="more than the disk"):
        find_source(tmp_path / "large.zip")
    assert is_empty(cache)


def test_without_the_extra_the_install_line_is_told(monkeypatch, cache):
    monkeypatch.setitem(sys.modules, "pooch", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for address in ("https://example.org/m.pth", "hf://lab/pvs"):
        with pytest.raises(InputError, match=r"mednext-jax\[hub\]"):
            fetch(address)
    assert is_empty(cache)


def test_a_detour_over_plain_http_is_refused(site, cache, monkeypatch):
    from mednext_jax.hub import web

    site.put("/other.pth", V2)
    address = site.put("/m.pth", b"", status=302, Location="/other.pth")
    assert fetch(address).read_bytes() == V2
    monkeypatch.setattr(web, "is_safe", lambda address, pinned: "other" not in address)
    site.put("/n.pth", b"", status=302, Location="/other.pth")
    with pytest.raises(InputError, match="changed on its way"):
        fetch(f"{site.address}/n.pth")
