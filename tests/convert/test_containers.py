"""Every container, by content: the same weights from nnU-Net v1, v2, Lightning, MONAI, safetensors."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import safetensors.numpy

from mednext_jax.convert import from_torch
from mednext_jax.convert.containers import read_checkpoint
from mednext_jax.convert.sources import read_sources
from mednext_jax.errors import InputError
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.weights.names import expected_shapes, to_torch_names
from tests.convert.torch_archive import DATA

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


def test_nan_and_infinity_are_said_not_hidden(tmp_path):
    state = written(1)
    state["up_2.conv1.weight"][0, 0, 0, 0, 0] = np.nan
    state["stem.bias"][0] = np.inf
    source = read_sources(save(tmp_path / "x", state))[""]
    assert "2 tensors hold NaN or Inf" in " ".join(source.notes)
    assert source.provenance["notes"] == list(source.notes)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "an empty file"),
        (b"\x80\x04]\x94.", "a pickle that torch.save did not write"),
        (b"\x1f\x8b" + bytes(20), "gzip"),
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
    with pytest.raises(InputError, match="does not exist"):
        read_checkpoint(tmp_path / "x.pth")
