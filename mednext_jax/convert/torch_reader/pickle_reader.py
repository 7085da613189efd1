"""A pickle interpreter that builds plain data only: nothing is imported and nothing is called but the table below.

Python's own Unpickler imports what a pickle names before anybody can object, and trusts the sizes and memo indices
that it states. This one knows the opcodes that PyTorch and nnU-Net write and counts the memory it hands out. Every
global that is not in its table, and all that is made with it, is an inert placeholder that holds its name alone.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from mednext_jax.convert.torch_reader.pickle_numpy import NUMPY_GLOBALS, Foreign, Unbuilt
from mednext_jax.errors import InputError
from mednext_jax.io.json_file import MIB

_MARK = object()
_KEYS = (str, int, float, bool, bytes, type(None), Foreign)
_DIGITS_LIMIT = 1024  # bytes of one integer
_NAME_LIMIT = 256  # characters of a global's module, and of its name
# What a pickle may take beyond twice its file, so that a small one with many small objects is still read.
_ALLOWANCE = 32 * MIB


class BadPickle(ValueError):
    """The pickle is cut, malformed or asks for more memory than its file can justify."""


class ForeignGlobal(Exception):
    """The pickle is something, or does something, that is not in the table."""


class Known:
    """What a permitted global stands for: `call` for those that may be called, `value` for mere names."""

    def __init__(self, name: str, call: Callable[..., Any] | None = None, value: Any = None):
        self.name, self.call, self.value = name, call, value


Globals = Mapping[str, Known]


def _ordered_dict(pairs: Any = ()) -> dict:
    if not isinstance(pairs, list | tuple):
        raise BadPickle("a dict of something that is not pairs")
    return {_key(key): value for key, value in pairs}


def _set(items: Any = ()) -> set:
    if not isinstance(items, list | tuple):
        raise BadPickle("a set of something that is not a list")
    return {_key(item) for item in items}


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise BadPickle("bytes in an unknown encoding")
    return text.encode("latin-1")


def _empty_bytes() -> bytes:
    return b""


def table(calls: Mapping[str, Callable[..., Any]], values: Mapping[str, Any] | None = None) -> dict[str, Known]:
    """A table of globals: "module.name" -> what to call, or a value that may be named but not called."""
    found = {name: Known(name, call) for name, call in calls.items()}
    return found | {name: Known(name, value=value) for name, value in (values or {}).items()}


PLAIN_GLOBALS: Globals = {
    **table(
        {
            "collections.OrderedDict": _ordered_dict,
            "_codecs.encode": _encode,  # how protocol 2 writes bytes
            **{f"{module}.{kind}": _set for module in ("builtins", "__builtin__") for kind in ("set", "frozenset")},
            **{f"{module}.bytes": _empty_bytes for module in ("builtins", "__builtin__")},
        }
    ),
    **table(*NUMPY_GLOBALS),
}


def read_pickle(
    data: memoryview,
    *,
    file: object,
    globals: Globals = PLAIN_GLOBALS,
    persistent: Callable[[Any], Any] | None = None,
    file_size: int | None = None,
) -> Any:
    """The plain data (dicts, lists, tuples, sets, numbers, strings, bytes, NumPy arrays) in a pickle.

    `globals`: what is known; an object of anything else is a `Foreign`, its contents left out.
    `persistent`: resolves persistent ids. `file_size`: bytes of the whole file, of which the memory handed out is at
    most twice plus an allowance.
    Raises InputError that names what the pickle is if it is no plain data itself, or says why it is malformed.
    """
    machine = _Machine(data, globals, persistent, 2 * (file_size or len(data)) + _ALLOWANCE)
    try:
        found = machine.run()
        if isinstance(found, Foreign | Known | Unbuilt):
            raise ForeignGlobal(getattr(found, "name", "an array that is not complete"))
        return found
    except ForeignGlobal as error:
        raise InputError(
            "The file holds an object of a kind that is not read, because reading it could run code.",
            file=file,
            expected="tensors, NumPy arrays, numbers, strings and plain containers",
            found=str(error),
            hint="if you trust the file, re-save the weights alone: "
            "torch.save(torch.load(FILE, map_location='cpu', weights_only=False)['state_dict'], NEW_FILE)",
        ) from None
    except (
        *(ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, struct.error),
        *(RecursionError, MemoryError),
    ) as error:
        text = str(error) if isinstance(error, ValueError) else type(error).__name__
        raise InputError(
            "The file is damaged: its list of contents (a pickle) cannot be read.", file=file, found=ascii(text)[:200]
        ) from None


def _key(key: Any) -> Any:
    """A dict key that is cheap and safe to hash: a scalar, a placeholder or a flat tuple of them."""
    items = key if type(key) is tuple else (key,)
    if any(type(item) not in _KEYS or (type(item) is int and abs(item) >> 60) for item in items):
        raise BadPickle("a dict key that is no plain value")
    return key


def _copied(value: Any) -> int:
    """Bytes that a call may take to copy an argument of its own."""
    if isinstance(value, str | bytes):
        return len(value)
    return 100 * len(value) if isinstance(value, list | tuple) else 0


class _Machine:
    """Stack, memo and position; one method an opcode, registered in `_OPCODES`."""

    def __init__(
        self, data: memoryview, globals: Globals, persistent: Callable[[Any], Any] | None, budget: int
    ) -> None:
        self.data, self.position, self.budget = data, 0, budget
        self.globals, self.persistent = globals, persistent
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        if bytes(self.data[:1]) != b"\x80":
            raise BadPickle("it does not begin like a pickle of protocol 2 to 5")
        while True:
            code = self.take(1)[0]
            if code == 0x2E:  # STOP
                if len(self.stack) != 1 or self.stack[0] is _MARK:
                    raise BadPickle("it ends in the middle")
                return self.stack[0]
            operation = _OPCODES.get(code)
            if operation is None:
                raise ForeignGlobal(_REFUSED.get(code, f"unknown opcode 0x{code:02x}"))
            operation(self)

    def take(self, count: int) -> memoryview:
        end = self.position + count
        if end > len(self.data):
            raise BadPickle("it is truncated")
        found = self.data[self.position : end]
        self.position = end
        return found

    def number(self, layout: str) -> int:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> str:
        window = bytes(self.data[self.position : self.position + 256])
        length = window.find(b"\n")
        if length < 0:
            raise BadPickle("a name is cut or too long")
        self.position += length + 1
        return window[:length].decode("utf-8")

    def charge(self, size: int) -> None:
        self.budget -= size
        if self.budget < 0:
            raise BadPickle("it unfolds to more than twice its file's size")

    def push(self, value: Any, size: int = 8) -> None:
        self.charge(size)
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise BadPickle("a mark where a value is due")
        return value

    def top(self, kind: type) -> Any:
        value = self.stack[-1]
        if type(value) is not kind:
            raise BadPickle(f"something else where a {kind.__name__} is due")
        return value

    def pop_to_mark(self) -> list[Any]:
        for start in range(len(self.stack) - 1, -1, -1):
            if self.stack[start] is _MARK:
                items = self.stack[start + 1 :]
                del self.stack[start:]
                return items
        raise BadPickle("a mark is missing")

    def text(self, count: int, encoding: str = "utf-8") -> None:
        self.charge(4 * count)  # a string may take four bytes a character
        self.push(str(self.take(count), encoding, "surrogatepass" if encoding == "utf-8" else "strict"), 64)

    def raw(self, count: int) -> None:
        data = self.take(count)
        self.charge(count)
        self.push(bytes(data), 48)

    def long(self, count: int) -> None:
        if count > _DIGITS_LIMIT:
            raise BadPickle("an integer that is too long")
        self.push(int.from_bytes(self.take(count), "little", signed=True), 32 + count)

    def tuple_of(self, items: list[Any]) -> None:
        self.push(tuple(items), 56 + 8 * len(items))

    def set_items(self, pairs: list[Any]) -> None:
        if isinstance(self.stack[-1], Foreign):
            return
        target = self.top(dict)
        if len(pairs) % 2:
            raise BadPickle("a key without a value")
        self.charge(100 * (len(pairs) // 2))
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            target[_key(key)] = value

    def append(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], Foreign):
            return
        target = self.top(list)
        self.charge(10 * len(items))
        target.extend(items)

    def add_items(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], Foreign):
            return
        target = self.top(set)
        self.charge(100 * len(items))
        target.update(_key(item) for item in items)

    def put(self, index: int) -> None:
        value = self.stack[-1]
        if value is _MARK:
            raise BadPickle("a mark is remembered")
        self.charge(100)
        self.memo[index] = value
        if isinstance(value, Unbuilt):
            value.memo_index = index

    def find(self, module: Any, name: Any) -> None:
        if len(module) > _NAME_LIMIT or len(name) > _NAME_LIMIT:
            raise BadPickle("a name is too long")
        full = f"{module}.{name}"
        self.push(self.globals.get(full) or Foreign(ascii(full)[1:-1][:200]), 600)

    def instance(self, kind: Any, opcode: str) -> None:
        """Push the placeholder of an object; its arguments are dropped."""
        if not isinstance(kind, Foreign | Known):
            raise BadPickle("an instance of something that is no class")
        self.push(kind if isinstance(kind, Foreign) else Foreign(f"an instance of {kind.name} (opcode {opcode})"), 200)

    def inst(self) -> None:
        module, name = self.line(), self.line()
        self.pop_to_mark()
        self.push(Foreign(f"an instance of {ascii(f'{module}.{name}')[1:-1][:200]} (opcode INST)"), 800)

    def obj(self) -> None:
        self.instance(self.pop_to_mark()[0], "OBJ")

    def new_object(self, arguments: int, opcode: str) -> None:
        for _ in range(arguments):
            self.pop()
        self.instance(self.pop(), opcode)

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        if type(name) is not str or type(module) is not str:
            raise BadPickle("a global without a name")
        self.find(module, name)

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if isinstance(function, Foreign):
            self.push(function)
            return
        if not isinstance(function, Known) or function.call is None:
            raise ForeignGlobal(f"a call of {getattr(function, 'name', 'something that is no function')}")
        if type(arguments) is not tuple:
            raise BadPickle("a call without arguments")
        self.charge(400 + sum(_copied(argument) for argument in arguments))
        self.stack.append(function.call(*arguments))

    def build(self) -> None:
        state, target = self.pop(), self.pop()
        if isinstance(target, Foreign):
            self.stack.append(target)
        elif isinstance(target, Unbuilt):
            if type(state) is tuple:
                self.charge(sum(_copied(part) for part in state))
            built = target.build(state)
            if target.memo_index is not None:
                self.memo[target.memo_index] = built
            self.stack.append(built)
        elif type(target) is dict:
            self.stack.append(target)  # attributes of an OrderedDict (a state dict's _metadata): not needed
        else:
            raise ForeignGlobal("an object with a state of its own")

    def persistent_id(self) -> None:
        if self.persistent is None:
            raise ForeignGlobal("a persistent id")
        self.push(self.persistent(self.pop()), 400)


_Operation = Callable[[_Machine], Any]
_OPCODES: dict[int, _Operation] = {
    0x80: lambda m: m.take(1),  # PROTO
    0x95: lambda m: m.take(8),  # FRAME: its length is not needed
    ord("("): lambda m: m.push(_MARK),
    ord("0"): lambda m: m.stack.pop(),
    ord("1"): lambda m: m.pop_to_mark(),
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("J"): lambda m: m.push(m.number("<i"), 40),
    ord("K"): lambda m: m.push(m.number("<B")),
    ord("M"): lambda m: m.push(m.number("<H"), 40),
    0x8A: lambda m: m.long(m.number("<B")),
    0x8B: lambda m: m.long(m.number("<I")),
    ord("G"): lambda m: m.push(m.number(">d"), 32),
    # a Python 2 string may be text or bytes: latin-1 keeps both
    ord("T"): lambda m: m.text(m.number("<I"), "latin-1"),
    ord("U"): lambda m: m.text(m.number("<B"), "latin-1"),
    ord("X"): lambda m: m.text(m.number("<I")),
    0x8C: lambda m: m.text(m.number("<B")),
    0x8D: lambda m: m.text(m.number("<Q")),
    ord("B"): lambda m: m.raw(m.number("<I")),
    ord("C"): lambda m: m.raw(m.number("<B")),
    0x8E: lambda m: m.raw(m.number("<Q")),
    0x96: lambda m: m.raw(m.number("<Q")),  # BYTEARRAY8
    ord("]"): lambda m: m.push([], 64),
    ord("a"): lambda m: m.append([m.pop()]),
    ord("e"): lambda m: m.append(m.pop_to_mark()),
    ord("l"): lambda m: m.push(m.pop_to_mark(), 64),
    ord(")"): lambda m: m.push(()),
    ord("t"): lambda m: m.tuple_of(m.pop_to_mark()),
    0x85: lambda m: m.tuple_of([m.pop()]),
    0x86: lambda m: m.tuple_of([m.pop(), m.pop()][::-1]),
    0x87: lambda m: m.tuple_of([m.pop(), m.pop(), m.pop()][::-1]),
    ord("}"): lambda m: m.push({}, 72),
    ord("s"): lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    ord("u"): lambda m: m.set_items(m.pop_to_mark()),
    0x8F: lambda m: m.push(set(), 224),
    0x90: lambda m: m.add_items(m.pop_to_mark()),
    0x91: lambda m: m.push(_set(m.pop_to_mark()), 224),
    ord("q"): lambda m: m.put(m.number("<B")),
    ord("r"): lambda m: m.put(m.number("<I")),
    0x94: lambda m: m.put(len(m.memo)),
    ord("h"): lambda m: m.push(m.memo[m.number("<B")]),
    ord("j"): lambda m: m.push(m.memo[m.number("<I")]),
    ord("c"): lambda m: m.find(m.line(), m.line()),
    0x93: _Machine.stack_global,
    ord("R"): _Machine.reduce,
    ord("b"): _Machine.build,
    ord("Q"): _Machine.persistent_id,
    ord("i"): _Machine.inst,
    ord("o"): _Machine.obj,
    0x81: lambda m: m.new_object(1, "NEWOBJ"),
    0x92: lambda m: m.new_object(2, "NEWOBJ_EX"),
}
_REFUSED = {
    **dict.fromkeys((130, 131, 132), "an entry of the extension registry (opcode EXT)"),
    ord("P"): "a persistent id (opcode PERSID)",
    **dict.fromkeys((151, 152), "an out-of-band buffer"),
}
