"""The pickle interpreter: equal to Python's on plain data, and inert on everything else."""

from __future__ import annotations

import contextlib
import pickle
import struct
import time
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest

from mednext_jax.convert.torch_reader.pickle_reader import read_pickle
from mednext_jax.errors import InputError
from tests.convert.torch_archive import opcodes, payload

pytestmark = pytest.mark.core


def read(data: bytes):
    return read_pickle(memoryview(data), file="x.pkl")


def native(x: np.ndarray) -> np.dtype:
    return x.dtype.newbyteorder("=")  # NumPy turns the bytes round on loading, this reader does not


def same(a, b) -> bool:
    if isinstance(b, np.ndarray):
        return isinstance(a, np.ndarray) and native(a) == native(b) and a.shape == b.shape and np.array_equal(a, b)
    if isinstance(b, dict):
        return isinstance(a, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in b)
    if isinstance(b, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


SHARED = [1, 2]
PLAIN = {
    "numbers": [0, 1, -1, 255, 256, 65536, -(2**31), 2**40, -(2**70), 1.5, float("inf"), True, False, None],
    "texts": ["", "a", "é", "\U0001f9e0", "x" * 300, b"", b"raw", b"\xff" * 300],
    "containers": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], {}, {1: {2: 3}}, {(0, 1): 2}, {1, 2}, frozenset({3})],
    "ordered": OrderedDict(b=1, a=2),
    "shared": [SHARED, SHARED],
}
NUMPY = {
    "scalars": [np.float64(0.5), np.float32(0.25), np.int64(-3), np.uint8(9), np.bool_(True), np.float16(2)],
    "arrays": [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
        np.zeros((0, 3)),
        np.array(3.0),
        np.array(["ab", "c"]),
        np.array([1, 2], ">i4"),
        np.array([True, False]),
    ],
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("value", [PLAIN, NUMPY, [1], "x" * 70_000], ids=["plain", "numpy", "list", "long text"])
def test_plain_data_and_numpy_are_read_as_python_reads_them(protocol, value):
    data = pickle.dumps(value, protocol)
    assert same(read(data), pickle.loads(data))


def test_numpy_1_names_are_known():
    data = pickle.dumps(np.arange(3.0), 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert same(read(data), np.arange(3.0))


def test_shared_objects_stay_shared_and_recursion_is_possible():
    found = read(pickle.dumps([SHARED, SHARED]))
    assert found[0] is found[1]
    loop: list = []
    loop.append(loop)
    found = read(pickle.dumps(loop))
    assert found[0] is found


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_pickle_that_runs_code_does_nothing_and_is_refused(tmp_path, protocol):
    data = payload(tmp_path / "marker", protocol)
    with pytest.raises(InputError):
        read(data)
    assert not (tmp_path / "marker").exists()
    pickle.loads(data)  # the payload is a real one
    assert (tmp_path / "marker").exists()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


EVIL = b"cos\nsystem\n"
OWN = b"ccollections\nOrderedDict\n"
# what is refused -> the word that names it
HOSTILE = {
    "GLOBAL and REDUCE": (b"\x80\x02" + EVIL + text("true") + b"\x85R.", "os.system"),
    "STACK_GLOBAL": (b"\x80\x04" + text("posix") + text("system") + b"\x93" + text("true") + b"\x85R.", "posix.system"),
    "open": (b"\x80\x02cbuiltins\nopen\n" + text("/etc/passwd") + b"\x85R.", "builtins.open"),
    "eval": (b"\x80\x02c__builtin__\neval\n" + text("1") + b"\x85R.", "eval"),
    "getattr": (b"\x80\x02cbuiltins\ngetattr\n.", "builtins.getattr"),
    "a dotted name": (b"\x80\x04" + text("collections") + text("OrderedDict.__init__") + b"\x93.", "__init__"),
    "a module of the package": (b"\x80\x02cmednext_jax.weights.directory\nload_model\n.", "load_model"),
    "numpy's loader": (b"\x80\x02cnumpy\nload\n" + text("x.npy") + b"\x85R.", "numpy.load"),
    "torch's loader": (b"\x80\x02ctorch\nload\n" + text("x") + b"\x85R.", "torch.load"),
    "hidden in the memo": (b"\x80\x02" + EVIL + b"q\x000h\x00" + text("true") + b"\x85R.", "os.system"),
    "INST": (b"\x80\x02(" + text("true") + b"ios\nsystem\n.", "INST"),
    "OBJ": (b"\x80\x02(" + EVIL + text("true") + b"o.", "os.system"),
    "OBJ of a known name": (b"\x80\x02(" + OWN + b"o.", "OBJ"),
    "NEWOBJ": (b"\x80\x02" + OWN + b")\x81.", "NEWOBJ"),
    "NEWOBJ_EX": (b"\x80\x04" + OWN + b")}\x92.", "NEWOBJ_EX"),
    "BUILD of a list that holds an object": (b"\x80\x02](" + text("true") + b"ios\nsystem\naNb.", "state of its own"),
    "EXT1": (b"\x80\x02\x82\x01.", "EXT"),
    "EXT2": (b"\x80\x02\x83\x01\x00.", "EXT"),
    "EXT4": (b"\x80\x02\x84\x01\x00\x00\x00.", "EXT"),
    "PERSID": (b"\x80\x02Pabc\n.", "PERSID"),
    "BINPERSID": (b"\x80\x02NQ.", "persistent id"),
    "BUILD of a list": (b"\x80\x02]}b.", "state of its own"),
    "a call of a name": (b"\x80\x02cnumpy\nndarray\n)R.", "numpy.ndarray"),
    "a call of a text": (b"\x80\x02" + text("os") + b")R.", "no function"),
    "an out-of-band buffer": (b"\x80\x05\x97.", "out-of-band"),
    "an array of objects": (pickle.dumps(np.array([{}], object), 2), "NumPy type"),
    "a record dtype": (pickle.dumps(np.zeros(1, [("a", "f4")]), 2), "NumPy type"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_everything_else_is_refused_by_name(name, monkeypatch):
    import os

    monkeypatch.setattr(os, "system", lambda command: pytest.fail("the pickle ran a command"))
    data, word = HOSTILE[name]
    with pytest.raises(InputError, match=word) as caught:
        read(data)
    assert "x.pkl" in str(caught.value)


# what an object of an unknown kind leaves behind where it stood
PLACEHOLDERS = {
    "a call in a dict": (b"\x80\x02}" + text("epoch") + EVIL + text("true") + b"\x85Rs.", "{'epoch': <os.system>}"),
    "an argument of a call": (b"\x80\x02" + EVIL + b"](" + OWN + b")Re\x85R" + b"\x85.", "(<os.system>,)"),
    "a state": (b"\x80\x02" + OWN + b")R" + EVIL + text("true") + b"\x85Rb.", "{}"),
    "a dict of its own": (b"\x80\x02" + EVIL + b")R" + text("a") + b"Ns\x85.", "(<os.system>,)"),
    "a list of its own": (b"\x80\x02" + EVIL + b")RNa(NNe\x85.", "(<os.system>,)"),
    "a set of its own": (b"\x80\x04" + EVIL + b")R(N\x90\x85.", "(<os.system>,)"),
    "attributes": (b"\x80\x02" + EVIL + b")\x81}" + text("a") + b"Nsb\x85.", "(<os.system>,)"),
    "a key": (b"\x80\x02}" + EVIL + b"Ns.", "{<os.system>: None}"),
    "OBJ": (b"\x80\x02(" + EVIL + text("true") + b"o\x85.", "(<os.system>,)"),
    "INST": (b"\x80\x02(" + text("true") + b"ios\nsystem\n\x85.", "(<an instance of os.system (opcode INST)>,)"),
    "NEWOBJ_EX": (b"\x80\x04" + EVIL + b")}\x92\x85.", "(<os.system>,)"),
    "an array of objects": (pickle.dumps((np.array([{}], object),), 2), "(<a NumPy type that is not read: 'O8'>,)"),
    "a date": (pickle.dumps((np.datetime64("2020-01-01"),), 4), "(<a NumPy type that is not read: 'M8'>,)"),
}


@pytest.mark.parametrize("name", PLACEHOLDERS)
def test_an_unknown_object_inside_plain_data_leaves_only_its_name(name, monkeypatch):
    import os

    monkeypatch.setattr(os, "system", lambda command: pytest.fail("the pickle ran a command"))
    data, left = PLACEHOLDERS[name]
    assert repr(read(data)) == left


BAD = {
    "empty": b"",
    "protocol 0": b"I1\n.",
    "cut": b"\x80\x02X\x10\x00\x00\x00abc",
    "no stop": b"\x80\x02N",
    "two values": b"\x80\x02NN.",
    "a mark": b"\x80\x02(.",
    "empty stack": b"\x80\x020.",
    "memo miss": b"\x80\x02h\x07.",
    "odd items": b"\x80\x02}(Nu.",
    "append to a dict": b"\x80\x02}Na.",
    "list as a key": b"\x80\x02}]Ns.",
    "nested tuple as a key": b"\x80\x02}" + b"N\x85\x85Ns.",
    "a name without end": b"\x80\x02c" + b"a" * 5000,
    "text of 2^63 bytes": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f" + b"x",
    "bytes of 2^63": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f" + b"x",
    "bytearray of 2^40": b"\x80\x05\x96" + struct.pack("<Q", 2**40),
    "long integer": b"\x80\x02\x8b" + struct.pack("<i", 10**6) + b"\x01" * 10**6 + b".",
    "bad utf-8": b"\x80\x02X\x01\x00\x00\x00\xff.",
    "unknown opcode": b"\x80\x02\xf0.",
    "frame beyond the end": b"\x80\x04\x95",
    "array with another size": pickle.dumps(np.arange(3.0), 2).replace(b"K\x03\x85", b"K\x04\x85"),
}


@pytest.mark.parametrize("name", BAD)
def test_malformed_pickles_are_refused(name):
    with pytest.raises(InputError):
        read(BAD[name])


def doubled_tuples(depth: int) -> bytes:
    return b"\x80\x02)q\x00" + b"".join(
        b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(depth)
    )


BOMBS = {
    "dicts": b"\x80\x02(" + b"}" * 500_000 + b"l.",
    "lists": b"\x80\x02(" + b"]" * 500_000 + b"l.",
    "sets": b"\x80\x04(" + b"\x8f" * 300_000 + b"l.",
    "a memo index of 2^32": b"\x80\x02N" + b"r\xff\xff\xff\xff" * 1000 + b".",
    "many memo entries": b"\x80\x04N" + b"\x94" * 500_000 + b".",
    "nested lists": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "nested tuples": b"\x80\x02)" + b"\x85" * 300_000 + b".",
    "a tuple of 2^200 leaves as a key": b"}".join([doubled_tuples(100), b"0}h\x63Ns."]),
    "a list copied by calls": b"\x80\x02]("
    + b"K\x01" * 50_000
    + b"eq\x00"
    + b"cbuiltins\nset\n"
    + b"q\x01("
    + b"h\x01h\x00\x85R" * 2_000
    + b"l.",
    "names that are long": b"\x80\x04(" + (text("m" * 250) + text("n" * 250) + b"\x93") * 20_000 + b"l.",
    "a name of a megabyte": b"\x80\x04" + text("m" * 2**20) + b"q\x00(" + b"h\x00h\x00\x93" * 1000 + b"l.",
    "a device that is a bomb": b"\x80\x02(ctorch\ndevice\n" + doubled_tuples(100)[2:] + b"0h\x63\x85Rt.",
    "a type that is a bomb": b"\x80\x02(cnumpy\ndtype\n" + doubled_tuples(100)[2:] + b"0h\x63\x85Rt.",
    "a text copied": b"\x80\x02(" + text("x" * 1000) + b"q\x00" + b"h\x00" * 300_000 + b"l.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_take_neither_memory_nor_time(name):
    data = BOMBS[name]
    tracemalloc.start()
    started = time.process_time()
    with contextlib.suppress(InputError):  # a bomb may be read as long as what it unfolds to is small
        read(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # 32 MiB is the allowance that small files have; 16 MiB more are this test's own and Python's lists
    assert peak <= 2 * len(data) + 48 * 2**20
    assert time.process_time() - started < 30  # tracemalloc slows every allocation


def test_the_fixtures_use_the_opcodes_that_they_are_named_for():
    assert "STACK_GLOBAL" in opcodes(HOSTILE["STACK_GLOBAL"][0])
    assert {"EXT1"} <= opcodes(HOSTILE["EXT1"][0])
