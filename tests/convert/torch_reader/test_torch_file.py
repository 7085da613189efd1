"""The reader of torch's zip files: every kind of tensor right, every dishonest file refused."""

from __future__ import annotations

import re
import struct
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest

from mednext_jax.convert.containers import read_checkpoint
from mednext_jax.convert.torch_reader.torch_file import TorchFile
from mednext_jax.errors import InputError
from tests.convert.torch_archive import DATA, archive, payload, tensor_pickle, zipped

pytestmark = pytest.mark.core

FLOATS = np.arange(6, dtype=np.float32)


def open_bytes(tmp_path, data: bytes) -> TorchFile:
    path = tmp_path / "x.pth"
    path.write_bytes(data)
    return TorchFile(path)


@pytest.fixture(scope="module")
def tensors():
    return TorchFile(DATA / "tensors.pth").contents


@pytest.mark.parametrize(
    "name",
    ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64"]
    + ["bool", "complex64", "complex128", "bfloat16", "float8_e4m3fn", "float8_e5m2"],
)
def test_every_type(tensors, name):
    dtype = np.dtype(getattr(ml_dtypes, name) if hasattr(ml_dtypes, name) else name)
    assert tensors[name].dtype == dtype
    np.testing.assert_array_equal(tensors[name], np.arange(6).reshape(2, 3).astype(dtype))


def test_strides_offsets_and_shared_storages(tensors):
    base = np.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_array_equal(tensors["base"], base)
    np.testing.assert_array_equal(tensors["slice"], base[1, :, 1:3])
    np.testing.assert_array_equal(tensors["transposed"], base.transpose(2, 0, 1))
    np.testing.assert_array_equal(tensors["step"], base.ravel()[::5])
    np.testing.assert_array_equal(tensors["expanded"], np.full((3, 2), 7.0))
    np.testing.assert_array_equal(tensors["parameter"], [1, 1])
    assert tensors["scalar"].shape == () and tensors["scalar"] == 5
    assert tensors["empty"].shape == (0, 4)
    assert tensors["size"] == (1, 2)
    assert np.shares_memory(tensors["base"], tensors["slice"])
    assert not tensors["base"].flags.writeable


def test_it_agrees_with_torch(tensors):
    torch = pytest.importorskip("torch")
    theirs = torch.load(DATA / "tensors.pth", weights_only=True)
    assert list(theirs) == list(tensors)
    for name, value in theirs.items():
        if not isinstance(value, torch.Tensor):
            continue
        raw = value.detach().contiguous().flatten().view(torch.uint8) if value.numel() else torch.zeros(0)
        assert np.ascontiguousarray(tensors[name]).tobytes() == raw.numpy().tobytes(), name


def test_a_hand_made_archive_is_read(tmp_path):
    """The maker of the dishonest ones below makes honest ones too."""
    opened = open_bytes(tmp_path, archive(tensor_pickle(), {"0": FLOATS.tobytes()}))
    np.testing.assert_array_equal(opened.contents["weight"], FLOATS.reshape(2, 3))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_that_runs_code_does_nothing(tmp_path, protocol):
    with pytest.raises(InputError, match=r"Path|getattr|NEWOBJ"):
        open_bytes(tmp_path, archive(payload(tmp_path / "marker", protocol)))
    assert not (tmp_path / "marker").exists()


LYING_TENSORS = {
    "reaches outside": {"offset": 1},
    "a stride that reaches outside": {"stride": (4, 1)},
    "a negative stride": {"stride": (-3, 1), "offset": 3},
    "a negative offset": {"offset": -1},
    "a negative size": {"size": (-2, -3)},
    "a size of 2^62": {"size": (2**62, 4), "stride": (0, 1)},
    "an offset of 2^63": {"offset": 2**63},
    "sizes whose product wraps": {"size": (2**33, 2**33), "stride": (0, 0)},
    "more strides than sizes": {"stride": (3, 1, 1)},
    "twenty dimensions": {"size": (1,) * 20, "stride": (0,) * 20},
    "a storage of more elements": {"count": 7},
    "a storage of fewer elements": {"count": 5},
    "a storage of 2^62 elements": {"count": 2**62},
    "a storage of -1 elements": {"count": -1},
    "a storage of a wider type": {"storage": "DoubleStorage"},
    "a storage that is not there": {"key": "1"},
    "a storage outside": {"key": "../../../etc/passwd"},
    "a storage that is another member": {"key": "../data.pkl"},
    "a quantised storage": {"storage": "QInt8Storage"},
}


@pytest.mark.parametrize("name", LYING_TENSORS)
def test_tensors_that_lie_are_refused(tmp_path, name):
    data = archive(tensor_pickle(**LYING_TENSORS[name]), {"0": FLOATS.tobytes()})
    with pytest.raises(InputError, match=r"x\.pth"):
        open_bytes(tmp_path, data)


def test_many_views_of_one_storage_are_no_bomb(tmp_path):
    """1000 names of the same megabyte: 1 GB once copied."""
    entry = tensor_pickle((2**18,), (1,), 0, 2**18)[3:-1]  # without protocol, dict and STOP
    contents = b"\x80\x02}" + b"".join(entry.replace(b"weight", b"w%05d" % i) for i in range(1000))
    path = tmp_path / "x.pth"
    path.write_bytes(archive(contents + b".", {"0": bytes(2**20)}))
    with pytest.raises(InputError, match="larger than the file"):
        read_checkpoint(path)


def test_zip_bombs_are_refused_unopened(tmp_path):
    data = zipped([("archive/data.pkl", b"\x80\x02N."), ("archive/data/0", bytes(50_000_000))], zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    with pytest.raises(InputError, match="compressed"):
        open_bytes(tmp_path, data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../x", "archive/../../x", "C:/x", "archive\\..\\x", "archive//x", "archive/x\ny", "./\x00"]
)
def test_member_names_that_lead_outside_are_refused(tmp_path, name):
    name = name.replace("\x00", "\x01")  # zipfile itself cuts names at a zero byte
    data = archive(tensor_pickle(), {"0": FLOATS.tobytes()}, {name: b""})
    with pytest.raises(InputError, match="leads out"):
        open_bytes(tmp_path, data)


def test_members_that_are_there_twice_are_refused(tmp_path):
    member = [("archive/data.pkl", tensor_pickle()), ("archive/data/0", FLOATS.tobytes())]
    with pytest.raises(InputError, match="two members"):
        open_bytes(tmp_path, zipped([*member, ("archive/data/0", bytes(24))]))


def patched(data: bytes, signature: bytes, offset: int, value: bytes, which: int = 0) -> bytes:
    """`data` with bytes replaced at an offset of the n-th zip record of a kind."""
    start = [match.start() for match in re.finditer(re.escape(signature), data)][which] + offset
    return data[:start] + value + data[start + len(value) :]


CENTRAL, LOCAL, END = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"
LYING_ZIPS = {
    "a size beyond the file": lambda d: patched(d, CENTRAL, 20, struct.pack("<II", 2**31, 2**31)),
    "two sizes that differ": lambda d: patched(d, CENTRAL, 24, struct.pack("<I", 2**31)),
    "a header beyond the file": lambda d: patched(d, CENTRAL, 42, struct.pack("<I", 2**31)),
    "a header that is none": lambda d: patched(d, CENTRAL, 42, struct.pack("<I", 1)),
    "overlapping members": lambda d: patched(d, CENTRAL, 20, struct.pack("<II", 400, 400)),
    "another name in the header": lambda d: patched(d, LOCAL, 30, b"brchive"),
    "a wrong checksum": lambda d: patched(d, CENTRAL, 16, b"\0\0\0\0"),
    "an encrypted member": lambda d: patched(d, CENTRAL, 8, b"\1"),
    "more members than there are": lambda d: patched(d, END, 8, struct.pack("<HH", 9, 9)),
    "fewer members than there are": lambda d: patched(d, END, 8, struct.pack("<HH", 2, 2)),
    "a list beyond the file": lambda d: patched(d, END, 16, struct.pack("<I", 2**31)),
    "64-bit sizes that are missing": lambda d: patched(d, CENTRAL, 20, b"\xff" * 8),
    "a 64-bit end that is missing": lambda d: patched(d, END, 10, b"\xff\xff"),
    "several disks": lambda d: patched(d, END, 4, b"\1\0"),
    "bytes after the end": lambda d: d + b"x",
    "another magic": lambda d: b"XX" + d[2:],
    "no list of contents": lambda d: zipped([("archive/version", b"3")]),
    "two lists of contents": lambda d: archive(tensor_pickle(), {}, {"other/data.pkl": b"\x80\x02N."}),
    "big-endian": lambda d: zipped([("archive/data.pkl", b"\x80\x02N."), ("archive/byteorder", b"big")]),
}


@pytest.mark.parametrize("name", LYING_ZIPS)
def test_archives_that_lie_are_refused(tmp_path, name):
    honest = archive(tensor_pickle(), {"0": FLOATS.tobytes()})
    with pytest.raises(InputError, match=r"x\.pth"):
        open_bytes(tmp_path, LYING_ZIPS[name](honest))


def test_too_many_members_are_refused_before_their_names_are_read(tmp_path):
    data = zipped([("archive/data.pkl", b"\x80\x02N.")] + [(f"archive/{i}", b"") for i in range(20_001)])
    with pytest.raises(InputError, match="20002 members"):
        open_bytes(tmp_path, data)


@pytest.mark.parametrize("name", ["model_final_checkpoint.model", "tensors.pth"])
def test_truncation_anywhere_is_refused(tmp_path, name):
    whole = (DATA / name).read_bytes()
    for part in range(50):
        with pytest.raises(InputError, match=r"x\.pth"):
            open_bytes(tmp_path, whole[: len(whole) * part // 50])


def test_a_flipped_bit_in_a_weight_is_noticed(tmp_path):
    data = bytearray((DATA / "model_final_checkpoint.model").read_bytes())
    weights = TorchFile(DATA / "model_final_checkpoint.model").contents["state_dict"]
    position = data.find(weights["bottleneck.0.conv2.weight"].tobytes())
    data[position + 5] ^= 1
    path = tmp_path / "x.pth"
    path.write_bytes(data)
    with pytest.raises(InputError, match="checksum"):
        read_checkpoint(path)


def test_old_files_are_refused_with_the_command_that_re_saves_them():
    with pytest.raises(InputError, match=r"(?s)old format.*torch\.save\(torch\.load\("):
        TorchFile(DATA / "legacy.pth")


def test_programs_are_refused():
    with pytest.raises(InputError, match="TorchScript"):
        TorchFile(DATA / "torchscript.pt")


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="missing"):
            TorchFile(path)


def test_reading_takes_almost_no_memory(tmp_path):
    path = tmp_path / "x.pth"
    count = 2**22  # 16 MiB
    path.write_bytes(archive(tensor_pickle((count,), (1,), 0, count), {"0": bytes(4 * count)}))
    tracemalloc.start()
    weight = TorchFile(path).contents["weight"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert weight.nbytes == 4 * count
    assert peak < 2**20
