"""Read a file that torch.save wrote, without torch and without running its pickle.

The tensors are NumPy views of the memory-mapped file (shared storages and strides as they are), so reading takes
almost no memory. Format: torch/serialization.py, zip layout (torch 1.6 and later).
"""

from __future__ import annotations

import bisect
import mmap
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mednext_jax.convert.torch_reader.pickle_reader import PLAIN_GLOBALS, read_pickle, table
from mednext_jax.convert.torch_reader.zip_members import BadZip, Member, read_members
from mednext_jax.errors import InputError
from mednext_jax.io.absent import refuse_absent

ZIP_MAGIC = b"PK\x03\x04"
# The first pickle of torch's format before 1.6 is this number.
LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_CONTENTS_LIMIT = 256 * 2**20
_DIMENSIONS_LIMIT = 16
_PACKED = re.compile(
    rb"model\.(json|safetensors)|[\w.-]{1,60}\.(model|pth?|ckpt|safetensors)(?=PK|\W|$)|plans\.(json|pkl)"
)

_STORAGES = {
    "Double": np.float64,
    "Float": np.float32,
    "Half": np.float16,
    "BFloat16": ml_dtypes.bfloat16,
    "Long": np.int64,
    "Int": np.int32,
    "Short": np.int16,
    "Char": np.int8,
    "Byte": np.uint8,
    "Bool": np.bool_,
    "ComplexFloat": np.complex64,
    "ComplexDouble": np.complex128,
}
_DTYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    **{name: np.dtype(name) for name in ("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64")},
    "bool": np.dtype(bool),
    "complex64": np.complex64,
    "complex128": np.complex128,
    **{
        name: getattr(ml_dtypes, name)
        for name in ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")
    },
}


class TorchFile:
    """An opened torch zip file: `contents` is what was saved, with NumPy arrays for tensors.

    Raises InputError for anything that is damaged, deceptive, or not plain data.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.data = _map(self.path)
        try:
            self.members = read_members(self.data)
            self.root = self._find_root()
            contents = self._contents()
        except BadZip as error:
            program = b"/constants.pkl" in bytes(self.data[-65536:])  # in the list of members
            what = "a TorchScript program, not a state dict: save model.state_dict()" if program else str(error)
            if not program and (name := self._packed()):
                raise InputError(
                    "This is a zip archive of other files.",
                    file=self.path,
                    expected="a file that torch.save wrote",
                    found=f"{name} in it",
                    hint="unpack it and name what is in it",
                ) from None
            raise self._refuse(what) from None
        globals = {
            **PLAIN_GLOBALS,
            **table(
                {
                    "torch._utils._rebuild_tensor_v2": self._tensor,
                    "torch._utils._rebuild_tensor_v3": self._typed_tensor,
                    "torch._utils._rebuild_parameter": lambda tensor, requires_grad, hooks: tensor,
                    "torch.Size": _size,
                    "torch.device": _device,
                },
                {
                    **{f"torch.{name}Storage": np.dtype(dtype) for name, dtype in _STORAGES.items()},
                    **{f"torch.{name}": np.dtype(dtype) for name, dtype in _DTYPES.items()},
                    "torch.storage.UntypedStorage": np.dtype(np.uint8),
                },
            ),
        }
        self.contents: Any = read_pickle(
            contents, file=self.path, globals=globals, persistent=self._storage, file_size=len(self.data)
        )

    def verify(self, arrays: Iterable[np.ndarray]) -> None:
        """Check the stored checksums of the members that `arrays` are views of. Raises InputError if one is wrong."""
        spans = sorted((member.start, name) for name, member in self.members.items())
        base = np.frombuffer(self.data, np.uint8).__array_interface__["data"][0]
        used = set()
        for array in arrays:
            offset = array.__array_interface__["data"][0] - base
            if array.size and 0 <= offset < len(self.data):
                used.add(spans[bisect.bisect_right(spans, (offset, "\U0010ffff")) - 1][1])
        for name in sorted(used):
            self._read(name)

    def _refuse(self, found: str) -> InputError:
        return InputError(
            "This is not a sound PyTorch file.",
            file=self.path,
            found=found,
            hint="copy or download it again; if torch itself reads it, re-save it with torch.save",
        )

    def _packed(self) -> str | None:
        """The name, in the list of members, of a file that people zip up to pass on a model."""
        tail = bytes(self.data[-65536:])
        found = None if b"/data.pkl" in tail else _PACKED.search(tail)
        return found and found[0].decode("ascii")

    def _find_root(self) -> str:
        roots = [name.removesuffix("/data.pkl") for name in self.members if name.endswith("/data.pkl")]
        roots = [root for root in roots if "/" not in root]
        if len(roots) != 1:
            raise BadZip("a zip archive that torch.save did not write (it has no data.pkl)")
        return roots[0]

    def _contents(self) -> memoryview:
        order = self.members.get(f"{self.root}/byteorder")
        if order is not None and bytes(order.read(self.data)) != b"little":
            raise BadZip("big-endian tensors: re-save the file on a little-endian machine")
        contents = self.members[f"{self.root}/data.pkl"]
        if contents.size > _CONTENTS_LIMIT:
            raise BadZip("a list of contents of more than 256 MiB")
        return contents.read(self.data)

    def _read(self, name: str) -> memoryview:
        try:
            return self.members[name].read(self.data)
        except BadZip as error:
            raise self._refuse(f"{name}: {error}") from None

    def _storage(self, identity: Any) -> np.ndarray:
        """A persistent id ("storage", type, key, device, count) -> all its elements, (count,)."""
        if type(identity) is not tuple or len(identity) != 5 or identity[0] != "storage":
            raise ValueError("a persistent id that is no storage")
        _, kind, key, _, count = identity
        dtype = getattr(kind, "value", None)
        if not isinstance(dtype, np.dtype) or type(key) is not str or type(count) is not int:
            raise ValueError("a storage that is described wrongly")
        member: Member | None = self.members.get(f"{self.root}/data/{key}")
        if member is None:
            raise ValueError(f"the storage {ascii(key)[:40]} is missing")
        if count < 0 or count * dtype.itemsize != member.size:
            raise ValueError(f"the storage {key} has {member.size} bytes, not {count} x {dtype.itemsize}")
        return np.frombuffer(self.data, dtype, count, member.start)

    def _tensor(
        self, storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, metadata: Any = None
    ) -> np.ndarray:
        if not isinstance(storage, np.ndarray) or storage.ndim != 1:
            raise ValueError("a tensor without a storage")
        if metadata:
            raise ValueError("a tensor with a conjugate or negative view")
        return _view(storage, offset, size, stride)

    def _typed_tensor(
        self, storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, metadata: Any = None
    ) -> np.ndarray:
        kind = getattr(dtype, "value", None)
        if not isinstance(storage, np.ndarray) or storage.dtype != np.uint8 or not isinstance(kind, np.dtype):
            raise ValueError("a tensor without a storage")
        if metadata:
            raise ValueError("a tensor with a conjugate or negative view")
        return _view(storage.view(kind), offset, size, stride)


def _size(numbers: Any = ()) -> tuple[Any, ...]:
    if not isinstance(numbers, list | tuple):
        raise ValueError("a size that is no list")
    return tuple(numbers)


def _device(kind: Any, index: Any = None) -> str:
    if type(kind) is not str or not (index is None or type(index) is int):
        raise ValueError("a device without a name")
    return kind if index is None else f"{kind}:{index}"


def _view(storage: np.ndarray, offset: Any, size: Any, stride: Any) -> np.ndarray:
    """A tensor's elements in its storage; every one of them must lie inside."""
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or len(size) > _DIMENSIONS_LIMIT or any(type(n) is not int for n in numbers):
        raise ValueError("a tensor without proper sizes and strides")
    if any(not 0 <= n < 2**40 for n in numbers):
        raise ValueError("a tensor with an impossible size, stride or offset")
    if 0 in size:
        return np.zeros(size, storage.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if last >= storage.size:
        raise ValueError(f"a tensor that reaches to element {last} of a storage of {storage.size}")
    strides = [step * storage.itemsize for step in stride]
    # as_strided would lose the 8-bit floats on the way
    return np.ndarray(size, storage.dtype, storage.view(np.uint8), offset * storage.itemsize, strides)


def _map(path: Path) -> memoryview:
    """The file's bytes; raises InputError with the hint for what is no torch zip file."""
    refuse_absent(path, "file", "a file that torch.save wrote")
    with path.open("rb") as file:
        head = file.read(max(len(LEGACY_MAGIC), 512))
        if head.startswith(LEGACY_MAGIC):
            raise InputError(
                "The file is in torch's old format (before 1.6), which is not read.",
                file=path,
                expected="torch's zip format",
                hint='if you trust it, re-save it: python -c "import torch; '
                f"torch.save(torch.load({str(path)!r}, map_location='cpu', weights_only=False), 'resaved.pth')\"",
            )
        if not head.startswith(ZIP_MAGIC):
            raise InputError(
                "This is not a PyTorch file.",
                file=path,
                expected="a file that torch.save wrote (a zip archive)",
                found="an empty file" if not head else f"a file that begins with {head[:8]!r}",
            )
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
