"""Read a .safetensors file as windows on a memory map, after checking every size it claims.

The safetensors package's NumPy reader lacks bfloat16, which PyTorch files hold; writing goes through the package.
Format: https://github.com/huggingface/safetensors (8 bytes of header length, JSON header, data without holes).
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mednext_jax.errors import InputError
from mednext_jax.io.absent import refuse_absent
from mednext_jax.io.json_file import MIB, parse_json

_DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "BOOL": np.bool_,
    **{f"I{8 * size}": f"<i{size}" for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": f"<u{size}" for size in (1, 2, 4, 8)},
}
_HEADER_LIMIT = MIB  # MedNeXt-L's is 60 kB


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Name -> read-only array that shares the file's pages; nothing is read before it is used.

    Raises InputError if the file is no safetensors file, truncated, or its header lies.
    """
    path = Path(path)

    def refuse(found: str) -> InputError:
        return InputError("The file is not a valid safetensors file.", file=path, found=found)

    refuse_absent(path, "file", "a safetensors file")
    size = path.stat().st_size
    if size < 8:
        raise refuse(f"only {size} bytes")
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(size - 8, _HEADER_LIMIT):
            raise refuse(f"a header of {length} bytes in a file of {size}")
        header = parse_json(file.read(length), path)
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if not isinstance(header, dict):
        raise refuse("a header that is no JSON object")
    header.pop("__metadata__", None)
    tensors, spans = {}, []
    for name, entry in header.items():
        try:
            dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
            begin, end = entry["data_offsets"]
        except (KeyError, TypeError, ValueError):
            raise refuse(f"an entry that cannot be read: {name[:100]!r}") from None
        numbers = (*shape, begin, end)
        if len(shape) > 8 or not all(type(n) is int and 0 <= n <= size for n in numbers):
            raise refuse(f"impossible sizes for {name[:100]!r}")
        count = math.prod(shape)
        if end - begin != count * dtype.itemsize or 8 + length + end > size:
            raise refuse(f"sizes that do not add up for {name[:100]!r}")
        spans.append((begin, end))
        tensors[name] = np.frombuffer(pages, dtype, count, 8 + length + begin).reshape(shape)
    spans.sort()
    ends = [0, *(end for _, end in spans)]
    if [begin for begin, _ in spans] != ends[:-1] or ends[-1] != size - 8 - length:
        raise refuse("tensors that overlap, leave holes or do not fill the file (is it truncated?)")
    return tensors
