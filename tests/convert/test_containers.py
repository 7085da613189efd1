"""Every container, by content: the same weights from nnU-Net v1, v2, Lightning, MONAI, safetensors."""

from __future__ import annotations

import shutil
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from mednext_jax.convert import from_torch
from mednext_jax.convert.containers import read_checkpoint
from mednext_jax.convert.sources import read_sources
from mednext_jax.errors import InputError
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.weights.names import expected_shapes, to_torch_names
from tests.convert.torch_archive import DATA, zipped

pytestmark = pytest.mark.core

# What tools/make_torch_files.py wrote: the file, its seed, and what it is called.
FILES = [
    ("model_final_checkpoint.model", 1, "nnU-Net v1 checkpoint"),
    ("checkpoint_final.pth", 2, "nnU-Net v2 checkpoint"),
    ("lightning.ckpt", 3, "Lightning checkpoint"),
]
CONFIG = MedNeXtConfig(base_channels=1, block_counts=(1,) * 9, deep_supervision=True)


def written(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    state = {key: rng.standard_normal(shape, np.float32) for key, shape in expected_shapes(CONFIG).items()}
    return state | {"dummy_tensor": np.ones(1, np.float32)}


@pytest.mark.parametrize(("name", "seed", "kind"), FILES)
def test_real_files_are_read_bit_for_bit_whatever_their_name(tmp_path, name, seed, kind):
    path = tmp_path / "some.file"
    shutil.copy(DATA / name, path)
    assert read_checkpoint(path).kind == kind
    config, params = from_torch(path)
    assert config == CONFIG
    back = to_torch_names(config, params)
    for key, value in written(seed).items():
        assert back[key].tobytes() == value.tobytes(), key


def save(path, state):
    safetensors.numpy.save_file({key: np.ascontiguousarray(x) for key, x in state.items()}, path)
    return path


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "model.model.", "module._orig_mod.", "net."])
def test_prefixes_are_stripped(tmp_path, prefix):
    path = save(tmp_path / "x", {prefix + key: x for key, x in written(1).items()})
    checkpoint = read_checkpoint(path)
    assert set(checkpoint.state) == set(written(1))
    assert bool(checkpoint.notes) == bool(prefix.replace("_orig_mod.", ""))


def test_compiled_parts_inside_the_network_are_recognised(tmp_path):
    state = {key.replace("enc_block_0.0.", "enc_block_0._orig_mod.0."): x for key, x in written(1).items()}
    assert from_torch(save(tmp_path / "x", state))[0] == CONFIG


def test_an_average_copy_beside_the_network_is_said_and_not_mixed_in(tmp_path):
    state = {f"model.{key}": x for key, x in written(1).items()}
    state |= {f"ema_model.{key}": x for key, x in written(2).items()} | {"loss.weight": np.ones(2, np.float32)}
    checkpoint = read_checkpoint(save(tmp_path / "x", state))
    np.testing.assert_array_equal(checkpoint.state["stem.weight"], written(1)["stem.weight"])
    assert "ema_model." in " ".join(checkpoint.notes)
    assert len(checkpoint.state) == len(written(1))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types_become_float32(tmp_path, dtype):
    state = {key: x.astype(dtype) for key, x in written(1).items()}
    _, params = from_torch(save(tmp_path / "x", state))
    kernel = params["stem"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel.ravel(), state["stem.weight"].ravel().astype(np.float32))


def test_rounding_is_said(tmp_path):
    path = save(tmp_path / "x", {key: x.astype(np.float64) for key, x in written(1).items()})
    assert "rounded" in " ".join(read_sources(path)[""].notes)


def test_weights_that_are_no_real_numbers_are_refused(tmp_path):
    state = written(1) | {"stem.weight": np.ones((1, 1, 1, 1, 1), np.int32)}
    with pytest.raises(InputError, match=r"stem\.weight is not a real number"):
        read_checkpoint(save(tmp_path / "x", state))


@pytest.mark.parametrize(
    ("value", "said"), [(np.nan, "NaN"), (np.inf, "inf"), (-np.inf, "-inf"), (1e38, "1e\\+38"), (-2e15, "-2e\\+15")]
)
def test_senseless_weights_are_refused_with_tensor_and_file(tmp_path, value, said):
    state = written(1)
    state["up_2.conv1.weight"][0, 0, 0, 0, 0] = value
    path = save(tmp_path / "x", state)
    for read in (read_sources, from_torch):
        with pytest.raises(InputError, match=rf"(?s)/x\n.*up_2\.conv1\.weight \({said}\)"):
            read(path)
    state["up_2.conv1.weight"][0, 0, 0, 0, 0] = 1e6
    from_torch(save(tmp_path / "y", state))


def test_a_number_that_float32_cannot_hold_is_refused(tmp_path):
    state = {key: x.astype(np.float64) for key, x in written(1).items()}
    state["stem.bias"][0] = 1e300
    with pytest.raises(InputError, match=r"stem\.bias \(inf\)"):
        from_torch(save(tmp_path / "x", state))


def lightning(hyper_parameters, **entries):
    torch = pytest.importorskip("torch")
    state = {f"net.{key}": torch.from_numpy(x) for key, x in written(1).items()}
    return {"pytorch-lightning_version": "2.5.0", "state_dict": state | entries, "hyper_parameters": hyper_parameters}


def foreign_values():
    import argparse
    import collections
    import datetime
    import decimal
    import functools
    import pathlib
    import re
    import signal
    import uuid

    import torch

    return {
        "path": pathlib.Path("/data"),
        "namespace": argparse.Namespace(lr=1, inner=argparse.Namespace(a=[1])),
        "partial": functools.partial(torch.optim.AdamW, lr=1e-3),
        "class": torch.nn.GELU,
        "function": torch.nn.functional.gelu,
        "module": torch.nn.CrossEntropyLoss(weight=torch.ones(2)),
        "enum": [signal.Signals.SIGINT, re.IGNORECASE],
        "time": [datetime.datetime(2026, 1, 2), datetime.timedelta(1), datetime.date(2026, 1, 2)],
        "numpy": [np.float32(1), np.datetime64("2020-01-01"), np.array([{}], object), np.random.default_rng(0)],
        "torch": [torch.float16, torch.device("cuda:1"), torch.Size([1, 2]), torch.strided, torch.qint8],
        "containers": [
            collections.OrderedDict(a=1),
            collections.defaultdict(list, a=[1]),
            collections.Counter("aab"),
            collections.deque([1]),
            {pathlib.Path("/a"): 1},
            {pathlib.Path("/a")},
        ],
        "others": [range(3), slice(1), 1j, decimal.Decimal(1), uuid.UUID(int=1), Ellipsis, bytearray(b"x")],
    }


@pytest.mark.parametrize(
    "name",
    ["path", "namespace", "partial", "class", "function", "module", "enum"]
    + ["time", "numpy", "torch", "containers", "others"],
)
def test_hyper_parameters_of_any_kind_do_not_hide_the_weights(tmp_path, name):
    torch = pytest.importorskip("torch")
    value = foreign_values()[name]
    for number, hyper in enumerate(({"x": value}, {"x": {"y": [value, 3]}, "lr": 1e-3})):
        path = tmp_path / f"{number}.ckpt"
        torch.save(lightning(hyper), path)
        checkpoint = read_checkpoint(path)
        assert checkpoint.kind == "Lightning checkpoint"
        np.testing.assert_array_equal(checkpoint.state["stem.weight"], written(1)["stem.weight"])
    assert checkpoint.rest["hyper_parameters"]["lr"] == 1e-3


@pytest.mark.parametrize(
    "place", ["model_state_dict", "net", "network", "module", "weights", "ema", "checkpoint.state_dict", "a.b"]
)
def test_a_state_dict_is_found_whatever_a_script_called_it(tmp_path, place):
    torch = pytest.importorskip("torch")
    state = {f"module.{key}": torch.from_numpy(x) for key, x in written(1).items()}
    contents = {"epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}
    for name in reversed(place.split(".")):
        state = {name: state}
    torch.save(contents | state, tmp_path / "x.pt")
    checkpoint = read_checkpoint(tmp_path / "x.pt")
    assert checkpoint.kind == f"PyTorch state dict (under {place!r})" and checkpoint.rest["epoch"] == 3
    np.testing.assert_array_equal(checkpoint.state["stem.weight"], written(1)["stem.weight"])
    torch.save(
        contents | state | {"other": {key: torch.from_numpy(x) for key, x in written(2).items()}}, tmp_path / "y"
    )
    assert f"took the network under {place!r}; others are there under 'other'" in read_checkpoint(tmp_path / "y").notes


def test_a_second_network_beside_the_first_is_said(tmp_path):
    both = {f"{name}.{key}": x for seed, name in ((1, "student"), (2, "teacher")) for key, x in written(seed).items()}
    notes = read_checkpoint(save(tmp_path / "x", both)).notes
    assert "took the network under 'student.'; others are there under 'teacher.'" in notes


def test_an_object_among_the_weights_is_named(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(lightning({}, **{"net.stem.weight": torch.nn.GELU()}), tmp_path / "x.ckpt")
    with pytest.raises(InputError, match=r"net\.stem\.weight: torch\.nn\.modules\.activation\.GELU"):
        read_checkpoint(tmp_path / "x.ckpt")
    torch.save({"model": torch.nn.GELU()}, tmp_path / "y.pth")
    with pytest.raises(InputError, match=r"'model' \(an object of torch\.nn\.modules\.activation\.GELU"):
        read_checkpoint(tmp_path / "y.pth")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "an empty file"),
        (b"\x80\x04]\x94.", "a pickle that torch.save did not write"),
        (b"\x1f\x8b" + bytes(20), "gzip"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "(?s)Git LFS.*git lfs pull"),
        (b"/annex/objects/MD5E-s1--0.pth\n", "(?s)git-annex.*datalad get"),
        (b"hello world, this is text", "begins with"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "begins with"),
    ],
)
def test_other_files_are_refused_with_what_they_are(tmp_path, data, words):
    path = tmp_path / "x.pth"
    path.write_bytes(data)
    with pytest.raises(InputError, match=words):
        read_checkpoint(path)


def test_a_torch_file_without_a_state_dict_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    for contents in ([1, 2], {"epoch": 3}, {"state_dict": {"epoch": 3}}):
        torch.save(contents, tmp_path / "x.pth")
        with pytest.raises(InputError, match="no state dict"):
            read_checkpoint(tmp_path / "x.pth")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="missing"):
        read_checkpoint(tmp_path / "x.pth")
    (tmp_path / "link.pth").symlink_to(".git/annex/objects/aa/x.pth")
    with pytest.raises(InputError, match="datalad get"):
        read_checkpoint(tmp_path / "link.pth")


@pytest.mark.parametrize("name", ["model.json", "model/model.safetensors", "a/best.pt", "plans.pkl"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zipped_folder_wants_unpacking(tmp_path, name, method):
    (tmp_path / "x.zip").write_bytes(zipped([("a/readme", b"x" * 100), (name, b"y" * 100)], method))
    with pytest.raises(InputError, match="unpack it"):
        read_checkpoint(tmp_path / "x.zip")
